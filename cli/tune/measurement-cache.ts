import { readFileSync, writeFileSync } from 'node:fs';
import { InputError } from '../../rewriter/errors.js';
import { FileTransaction } from '../../rewriter/onnx/file-transaction.js';

const VERSION = 1;

/** Measurements under one fingerprint: everything that they depend on. */
type Measurements = Record<string, unknown>;

interface CacheDocument {
  readonly version: typeof VERSION;
  readonly tunings: Record<string, Measurements>;
}

/**
 * Measurements that outlive the process: each is written, all or nothing, as soon as it is taken, so that an
 * interrupted tuning goes on where it stopped. One file serves any number of models, data and settings.
 */
export class MeasurementCache {
  private readonly document: CacheDocument;
  private readonly measurements: Measurements;

  /**
   * @param file null keeps measurements in memory only
   * @throws InputError when the file is no cache
   */
  constructor(
    private readonly file: string | null,
    fingerprint: string,
  ) {
    this.document = file === null ? empty() : read(file);
    this.measurements = this.document.tunings[fingerprint] ?? {};
    this.document.tunings[fingerprint] = this.measurements;
  }

  has(key: string): boolean {
    return Object.hasOwn(this.measurements, key);
  }

  /** What was measured under a key that is there. */
  stored<T>(key: string): T {
    if (!this.has(key)) throw new RangeError(`"${key}" was not measured`);
    return this.measurements[key] as T;
  }

  /** What was measured under this key; taken now where it was not. It has to survive JSON. */
  async get<T>(key: string, measure: () => Promise<T>): Promise<T> {
    if (!this.has(key)) {
      this.measurements[key] = await measure();
      this.store();
    }
    return this.measurements[key] as T;
  }

  private store(): void {
    if (this.file === null) return;
    const transaction = new FileTransaction();
    try {
      writeFileSync(transaction.stage(this.file), `${JSON.stringify(this.document)}\n`);
      transaction.commit();
    } catch (error) {
      transaction.rollback();
      throw error;
    }
  }
}

/** @throws InputError when a file that is to keep measurements holds something else */
export function checkCache(file: string): void {
  read(file);
}

function empty(): CacheDocument {
  return { version: VERSION, tunings: {} };
}

function read(file: string): CacheDocument {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return empty();
    throw error;
  }
  const fail = (what: string, cause: unknown) =>
    new InputError(`${file}: ${what}`, { file, remedy: 'Name another --cache file.' }, { cause });
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch (error) {
    throw fail('not a cache of measurements', error);
  }
  if (typeof document !== 'object' || document === null || !('tunings' in document)) {
    throw fail('not a cache of measurements', null);
  }
  if ((document as CacheDocument).version !== VERSION) {
    throw fail('a cache of another version of this program', null);
  }
  return document as CacheDocument;
}
