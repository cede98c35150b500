import { readFileSync } from 'node:fs';

const KIBIBYTE = 1024;

/**
 * Peak resident memory of this process, in bytes. Where Linux offers it, from the high-water mark of the program
 * itself: what `getrusage` tells starts with the memory of the parent at the time of the fork.
 */
export function peakMemory(): number {
  const mark = /^VmHWM:\s*(\d+) kB$/m.exec(processStatus());
  return (mark ? Number(mark[1]) : process.resourceUsage().maxRSS) * KIBIBYTE;
}

function processStatus(): string {
  try {
    return readFileSync('/proc/self/status', 'latin1');
  } catch {
    return '';
  }
}
