import { cpus, totalmem } from 'node:os';
import type { Environment } from '../rewriter/report.js';

/** The machine and the runtime that this process runs on. */
export function describeEnvironment(): Environment {
  const processors = cpus();
  return {
    node: process.versions.node,
    platform: `${process.platform} ${process.arch}`,
    cpu: processors[0]?.model.trim() || 'unknown CPU',
    cores: processors.length,
    memory_bytes: totalmem(),
  };
}

/** The command line of this process, quoted where a shell needs it. */
export function commandLine(): string {
  return ['onnx-rewrite', ...process.argv.slice(2)]
    .map(word => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`))
    .join(' ');
}
