import { cpus, totalmem } from 'node:os';
import { basename, isAbsolute, relative } from 'node:path';
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

/**
 * The command line of this process, quoted where a shell needs it. Reports travel: paths are told from the current
 * folder, and what is outside of it by its name.
 */
export function commandLine(): string {
  return ['onnx-rewrite', ...process.argv.slice(2).map(withoutFolders)]
    .map(word => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`))
    .join(' ');
}

function withoutFolders(word: string): string {
  const [, option = '', path = ''] = /^(--[\w-]+=)?(.*)$/s.exec(word)!;
  if (!isAbsolute(path)) return word;
  const near = relative(process.cwd(), path);
  return option + (near === '' || near.startsWith('..') || isAbsolute(near) ? basename(path) : near);
}
