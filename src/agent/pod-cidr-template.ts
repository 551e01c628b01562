/**
 * `{podCIDR}` in a network configuration stands for the node's own subnet, which the cluster gave to its Node object: so
 * one file serves all nodes, and host-local gives addresses that are unique in the cluster. `{podCIDR.IPv4}` and
 * `{podCIDR.IPv6}` name one family of a dual-stack node.
 */
import ipaddr from 'ipaddr.js';
import { messageOf, VirtioUserError } from '../errors.ts';

const placeholder = /\{podCIDR(\.\w*)?\}/g;

export function namesPodCidr(text: string): boolean {
  return text.search(placeholder) >= 0;
}

/** @throws VirtioUserError CONFIG_INVALID when the node has no such subnet */
export function fillPodCidrs(text: string, cidrs: readonly string[]): string {
  const known = cidrs.map((cidr) => ({ cidr, family: familyOf(cidr) }));
  return text.replace(placeholder, (name, suffix: string | undefined) => {
    const found = known.find(({ family }) => suffix === undefined || suffix === `.${family}`);
    if (found !== undefined) return found.cidr;
    throw new VirtioUserError('CONFIG_INVALID', `${name}: the node's subnets are ${cidrs.join(', ') || 'none'}`, {
      remedy:
        cidrs.length === 0
          ? 'let kube-controller-manager give each node one (--allocate-node-cidrs, --cluster-cidr), or write the subnet'
          : 'use {podCIDR}, {podCIDR.IPv4} or {podCIDR.IPv6}, of a family that the nodes have',
    });
  });
}

function familyOf(cidr: string): 'IPv4' | 'IPv6' {
  try {
    return ipaddr.parseCIDR(cidr)[0].kind() === 'ipv4' ? 'IPv4' : 'IPv6';
  } catch (error) {
    throw new VirtioUserError('CONFIG_INVALID', `the node's subnet ${JSON.stringify(cidr)}: ${messageOf(error)}`, {
      cause: error,
    });
  }
}
