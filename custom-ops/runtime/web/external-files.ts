import type * as Ort from 'onnxruntime-common';
import { InputError } from '../../../rewriter/errors.js';
import { type ByteSource, MemorySource } from '../../../rewriter/onnx/byte-source.js';
import { checkExternalData, externalLocations } from '../../../rewriter/onnx/external-data.js';
import type { ModelInfo, Sidecars } from '../../../rewriter/onnx/model-info.js';

type Options = Ort.InferenceSession.SessionOptions;
type GivenFile = NonNullable<Options['externalData']>[number];
type Content = Exclude<GivenFile, string>['data'];

/**
 * External data files of a model, as the session option `externalData` of onnxruntime-web gives them: by the path that
 * the model names, with an address, a Blob or bytes; a string is both path and address. What comes from an address or a
 * Blob is held between {@link load} and {@link unload} only.
 */
export class ExternalFiles implements Sidecars {
  readonly #given: ReadonlyMap<string, Content>;
  readonly #loaded = new Map<string, Uint8Array>();

  constructor(files: readonly GivenFile[] = []) {
    this.#given = new Map(
      files.map(file => (typeof file === 'string' ? [plain(file), file] : [plain(file.path), file.data])),
    );
  }

  /**
   * Loads the files that a model names, and checks that they hold what it looks for in them.
   * @throws InputError when a file was not given, cannot be had, or is too short
   */
  async load(model: ModelInfo): Promise<void> {
    const locations = [...new Set(externalLocations(model).map(plain))];
    const missing = locations.filter(location => !this.#given.has(location));
    if (missing.length > 0) throw missingFiles(missing, [...this.#given.keys()]);
    await Promise.all(
      locations.map(async location => {
        const data = this.#loaded.get(location) ?? (await bytesOf(this.#given.get(location)!));
        this.#loaded.set(location, data);
      }),
    );
    checkExternalData(model);
  }

  /** Lets go of what {@link load} has fetched. */
  unload(): void {
    this.#loaded.clear();
  }

  open(location: string): ByteSource {
    const data = this.#loaded.get(plain(location));
    if (!data) throw missingFiles([location], [...this.#loaded.keys()]);
    return new MemorySource(data);
  }

  /** The session option for a model that names some of the loaded files. */
  optionFor(model: ModelInfo): Pick<Options, 'externalData'> {
    const files = [...new Set(externalLocations(model).map(plain))];
    if (files.length === 0) return {};
    return { externalData: files.map(path => ({ path, data: this.#loaded.get(path)! })) };
  }
}

/** onnxruntime-web, too, takes `./` at the beginning of a path for nothing. */
const plain = (path: string): string => path.replace(/^\.\//, '');

function missingFiles(missing: readonly string[], given: readonly string[]): InputError {
  const names = missing.map(name => `'${name}'`).join(', ');
  const have =
    given.length === 0 ? 'none was given' : `given were ${given.map(name => `'${name}'`).join(', ')}`;
  const remedy = `Give the session option externalData: [{ path: '${missing[0]}', data: its address or its bytes }].`;
  return new InputError(`the model keeps weights in external data, ${names}: ${have}. ${remedy}`, {
    file: missing[0]!,
    remedy,
  });
}

async function bytesOf(content: Content): Promise<Uint8Array> {
  if (content instanceof Uint8Array) return content;
  if (typeof content === 'string') return fetchBytes(content);
  return new Uint8Array(content instanceof Blob ? await content.arrayBuffer() : content);
}

/**
 * What is at an address. Browsers refuse to put more than 2 GB into one buffer by themselves, so that it is filled
 * here, piece by piece.
 * @throws InputError when it cannot be had
 */
export async function fetchBytes(address: string): Promise<Uint8Array> {
  const failed = (why: string, cause?: unknown) =>
    new InputError(`${address}: ${why}`, { file: address, remedy: 'Check the address.' }, { cause });
  let response: Response;
  try {
    response = await fetch(address);
  } catch (error) {
    throw failed('the server cannot be reached', error);
  }
  if (!response.ok) throw failed(`the server answered ${response.status}`);
  const reader = response.body?.getReader();
  if (!reader) return new Uint8Array(await response.arrayBuffer());
  // Of compressed contents the server tells the compressed length: one that may have to grow.
  let bytes = new Uint8Array(Number(response.headers.get('content-length') ?? 0));
  let filled = 0;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const needed = filled + part.value.length;
    if (needed > bytes.length) {
      const larger = new Uint8Array(Math.max(needed, 2 * bytes.length));
      larger.set(bytes.subarray(0, filled));
      bytes = larger;
    }
    bytes.set(part.value, filled);
    filled = needed;
  }
  return bytes.subarray(0, filled);
}
