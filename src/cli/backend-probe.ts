/** `backend probe`: connects to a vhost-user backend, as the agent would, and tells what it offers. */
import { resolve } from 'node:path';
import { probeBackend, type ProbeReport } from '../frontends/probe.ts';
import { formatMask } from '../virtio/feature.ts';
import { type Command, print, textArgument } from './command.ts';
import { exitCode } from './exit-code.ts';
import { renderFields } from './output.ts';

export const probeCommand: Command = {
  usage: 'probe <path>',
  describe: 'connect to a vhost-user backend and print its features; nothing is set up',
  positionals: { path: { type: 'string', describe: 'socket on which the backend listens' } },
  run: async (args, terminal) => {
    // Loaded here: no other command should fail where the addon cannot be loaded.
    const { loadNative } = await import('../native/load.ts');
    const binding = loadNative();
    try {
      const report = await probeBackend(resolve(textArgument(args, 'path')), binding);
      print(args, terminal, jsonOf(report), () => renderFields(fieldsOf(report)));
      return exitCode.ok;
    } finally {
      binding.shutdown();
    }
  },
};

function jsonOf(report: ProbeReport): unknown {
  const { features, protocolFeatures } = report;
  return {
    ...report,
    features: formatMask(features),
    protocolFeatures: protocolFeatures === null ? null : formatMask(protocolFeatures),
  };
}

function fieldsOf(report: ProbeReport): readonly (readonly [string, string | readonly string[]])[] {
  const { protocolFeatures, queuePairs } = report;
  return [
    ['path', report.path],
    ['backend pid', report.backendPid === null ? 'unknown' : String(report.backendPid)],
    ['features', [formatMask(report.features), ...report.featureNames]],
    [
      'protocol features',
      protocolFeatures === null ? 'none' : [formatMask(protocolFeatures), ...report.protocolFeatureNames],
    ],
    ['queue pairs', queuePairs === null ? '1 (the backend has no MQ)' : String(queuePairs)],
  ];
}
