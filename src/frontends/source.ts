/** Where vhost-user connections of one attachment come from: we listen (server mode) or connect (client mode). */
import { join } from 'node:path';
import type { FrontendSource } from '../device/frontend.ts';
import { Channel } from './channel.ts';
import { ConnectSource } from './connect-source.ts';
import type { Connections, VhostUserSourceOptions } from './connections.ts';
import { ListenSource } from './listen-source.ts';
import { systemClock } from '../clock.ts';
import { VhostUserFrontend } from './vhost-user.ts';

export type { VhostUserSourceOptions };

export function createVhostUserSource(options: VhostUserSourceOptions): FrontendSource {
  const fullPath = join(options.path.baseDirectory, options.path.relativePath);
  const timers = options.timers ?? systemClock;
  const channelOptions = {
    name: fullPath,
    timers,
    ...(options.deadlineMs === undefined ? {} : { deadlineMs: options.deadlineMs }),
  };
  let generation = 0;
  const connections: Connections = {
    fullPath,
    timers,
    open: (attach) => {
      const channel = new Channel(attach, channelOptions);
      generation += 1;
      return new VhostUserFrontend(channel, generation, { ...options, name: fullPath, timers });
    },
  };
  return options.server ? new ListenSource(options, connections) : new ConnectSource(options, connections);
}
