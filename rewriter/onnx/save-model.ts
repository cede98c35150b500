import { constants, existsSync, realpathSync, statSync } from 'node:fs';
import { copyFile, link, open } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { InputError } from '../errors.js';
import type { ByteSource } from './byte-source.js';
import { FileSource } from './byte-source-file.js';
import { externalLocations } from './external-data.js';
import { FileTransaction } from './file-transaction.js';
import type { ModelFile } from './model-file.js';
import { contains } from './sidecar-files.js';
import { type Segment, segmentsLength } from './splice.js';
import { segmentBytes } from './write.js';

/**
 * What becomes of external data files when the output is in another folder than the model: `reference` writes
 * none and requires that they are there; `copy` copies them; `link` makes hard links, which cost no space, and
 * copies where the file system cannot link.
 */
export type ExternalDataMode = 'reference' | 'copy' | 'link';

export interface SaveOptions {
  readonly externalData: ExternalDataMode;
  /** Called as bytes of the model file are written. */
  readonly onProgress?: (written: number, total: number) => void;
}

/** A model written under temporary names, its external data with it: complete, and not yet visible. */
export interface StagedModel {
  /** The model file under its temporary name; external data is found in the folder of the input. */
  readonly file: string;
  /** For the user. */
  readonly notices: readonly string[];
  /** Gives the files their names. */
  commit(): void;
  /** Removes them. */
  rollback(): void;
}

/**
 * Writes an edited model and puts its external data beside it, all or nothing. Locations and offsets stay as
 * the model has them. Node only.
 * @param segments what `editModel` returned for this model
 * @returns notices for the user
 * @throws InputError when the output would overwrite the input or a different file of external data
 */
export async function saveModel(
  input: ModelFile,
  segments: readonly Segment[],
  output: string,
  options: SaveOptions,
): Promise<readonly string[]> {
  const staged = await stageModel(input, segments, output, options);
  staged.commit();
  return staged.notices;
}

/** Like `saveModel`, but leaves it to the caller to commit, once the written model has been looked at. */
export async function stageModel(
  input: ModelFile,
  segments: readonly Segment[],
  output: string,
  options: SaveOptions,
): Promise<StagedModel> {
  const notices: string[] = [];
  const transaction = new FileTransaction();
  try {
    checkOutput(input, output);
    for (const location of externalLocations(input.model)) {
      notices.push(...(await placeSidecar(input, location, output, options.externalData, transaction)));
    }
    const file = transaction.stage(output);
    await writeSegments(input.model.source, segments, file, options);
    const commit = () => {
      try {
        transaction.commit();
      } catch (error) {
        throw writingFailed(output, error);
      }
    };
    return { file, notices, commit, rollback: () => transaction.rollback() };
  } catch (error) {
    transaction.rollback();
    throw writingFailed(output, error);
  }
}

/** Failures of the file system are the user's to fix. */
function writingFailed(output: string, error: unknown): unknown {
  const { code } = error as NodeJS.ErrnoException;
  if (error instanceof InputError || code === undefined) return error;
  return new InputError(
    `${output}: cannot be written (${code})`,
    { file: output, remedy: 'Check that the folder can be written to and that there is space.' },
    { cause: error },
  );
}

function checkOutput(input: ModelFile, output: string): void {
  const refuse = (why: string) =>
    new InputError(`${output}: ${why}`, { file: output, remedy: 'Choose another output path.' });
  const locations = externalLocations(input.model);
  if (
    [input.file, ...locations.map(location => input.sidecars.path(location))].some(file =>
      sameFile(file, output),
    )
  ) {
    throw refuse('the output would overwrite the input');
  }
  if (locations.some(location => resolve(dirname(output), location) === resolve(output))) {
    throw refuse('the model names a file of external data like that');
  }
  if (statSync(output, { throwIfNoEntry: false })?.isDirectory()) throw refuse('a directory');
}

async function placeSidecar(
  input: ModelFile,
  location: string,
  output: string,
  mode: ExternalDataMode,
  transaction: FileTransaction,
): Promise<string[]> {
  const from = input.sidecars.path(location);
  const to = join(dirname(output), location);
  if (sameFile(from, to)) return [];
  if (existsSync(to)) {
    if (sameContent(from, to)) return [];
    throw new InputError(`${to}: a different file is there already, external data of the model goes there`, {
      file: to,
      remedy: 'Choose an output folder without it, or remove it.',
    });
  }
  if (mode === 'reference') {
    throw new InputError(`${output}: the model needs external data file '${location}' beside it`, {
      file: output,
      remedy: 'Write the output into the folder of the input, or have external data copied or linked.',
    });
  }
  const staged = transaction.stage(to);
  if (!contains(realpathSync(dirname(output)), realpathSync(dirname(to)))) {
    throw new InputError(`${to}: a link in the output folder leads external data out of it`, { file: to });
  }
  if (mode === 'link') {
    try {
      await link(from, staged);
      return [];
    } catch (error) {
      await copyFile(from, staged, constants.COPYFILE_FICLONE);
      return [`${to}: copied, since it could not be linked (${(error as NodeJS.ErrnoException).code})`];
    }
  }
  await copyFile(from, staged, constants.COPYFILE_FICLONE);
  return [];
}

async function writeSegments(
  source: ByteSource,
  segments: readonly Segment[],
  file: string,
  { onProgress }: SaveOptions,
): Promise<void> {
  const total = segmentsLength(segments);
  const handle = await open(file, 'wx');
  try {
    let written = 0;
    for (const bytes of segmentBytes(source, segments)) {
      await handle.writeFile(bytes);
      written += bytes.length;
      onProgress?.(written, total);
    }
  } finally {
    await handle.close();
  }
}

function sameFile(a: string, b: string): boolean {
  const [first, second] = [a, b].map(file => statSync(file, { throwIfNoEntry: false, bigint: true }));
  return first !== undefined && first.ino === second?.ino && first.dev === second.dev;
}

/** Bytes that are compared at a time. */
const CHUNK = 1024 * 1024;

function sameContent(a: string, b: string): boolean {
  const first = new FileSource(a);
  const second = new FileSource(b);
  try {
    if (first.length !== second.length) return false;
    for (let at = 0; at < first.length; at += CHUNK) {
      const end = Math.min(at + CHUNK, first.length);
      if (Buffer.compare(first.bytes(at, end), second.bytes(at, end)) !== 0) return false;
    }
    return true;
  } finally {
    first.close();
    second.close();
  }
}
