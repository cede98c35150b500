import { readFileSync } from 'node:fs';

/** Looks for the manifest beside the folder that the compiler writes to, and two levels up in a checkout. */
const manifest = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string;
};

/** Version of this program. */
export const VERSION = manifest.version;
