import type { ByteSource } from './byte-source.js';

/** What a file that is no ONNX model is instead, and what its owner can do. */
export interface ForeignFile {
  readonly what: string;
  readonly remedy: string;
}

interface Signature extends ForeignFile {
  matches(head: Uint8Array): boolean;
}

const EXPORT = 'Export the model to ONNX first (torch.onnx.export, Optimum, tf2onnx).';

/** Formats by their first bytes; the first that matches is named. */
const SIGNATURES: readonly Signature[] = [
  {
    what: 'an archive (ZIP), perhaps a PyTorch checkpoint, and not an ONNX model',
    remedy: `Unpack it if a .onnx file is inside; otherwise: ${EXPORT}`,
    matches: startsWith('PK\x03\x04'),
  },
  {
    what: 'a compressed file (gzip), not an ONNX model',
    remedy: 'Decompress it first.',
    matches: startsWith('\x1f\x8b'),
  },
  {
    what: 'a pickled PyTorch checkpoint, not an ONNX model',
    remedy: EXPORT,
    matches: head => head[0] === 0x80 && head[1]! >= 2 && head[1]! <= 5,
  },
  {
    what: 'a Git LFS pointer: the model itself was not downloaded',
    remedy: 'Run `git lfs pull` in the repository that the file comes from.',
    matches: startsWith('version https://git-lfs'),
  },
  {
    what: 'an ONNX Runtime format model (.ort), which cannot be rewritten',
    remedy: 'Give the .onnx file that it was converted from.',
    matches: head => text(head.subarray(4, 8)) === 'ORTM',
  },
  {
    what: 'a TensorFlow Lite model, not an ONNX model',
    remedy: 'Convert it with tf2onnx.',
    matches: head => text(head.subarray(4, 8)) === 'TFL3',
  },
  {
    what: 'a GGUF model, not an ONNX model',
    remedy: EXPORT,
    matches: startsWith('GGUF'),
  },
  {
    what: 'an HDF5 file (Keras), not an ONNX model',
    remedy: 'Convert it with tf2onnx.',
    matches: startsWith('\x89HDF'),
  },
  {
    what: 'a NumPy array, not an ONNX model',
    remedy: 'Give the .onnx file; arrays are inputs of validate and run.',
    matches: startsWith('\x93NUMPY'),
  },
  {
    what: 'a safetensors file: weights without a graph',
    remedy: EXPORT,
    matches: head => head[8] === 0x7b && head.subarray(4, 8).every(byte => byte === 0),
  },
  {
    what: 'a text file, not an ONNX model',
    remedy: 'Give a model in binary protobuf form; convert ONNX text or JSON with the onnx package.',
    matches: head => head.every(byte => byte >= 0x20 || (byte >= 0x09 && byte <= 0x0d)),
  },
];

const HEAD = 64;
const WEIGHT_FILE = /(\.data|_data(_\d+)?|\.weights?|\.bin)$/;

/**
 * Names the format of a file that could not be decoded as an ONNX model.
 * @returns null when nothing is recognized
 */
export function describeForeignFile(source: ByteSource, file: string | null): ForeignFile | null {
  if (source.length === 0)
    return { what: 'the file is empty', remedy: 'Export or download the model again.' };
  const head = source.bytes(0, Math.min(HEAD, source.length));
  const signature = SIGNATURES.find(({ matches }) => matches(head));
  if (signature) return signature;
  if (file !== null && WEIGHT_FILE.test(file)) {
    return {
      what: 'not an ONNX model: by its name, the weights of one (external data)',
      remedy: 'Give the .onnx file that belongs to it.',
    };
  }
  return null;
}

function startsWith(magic: string): (head: Uint8Array) => boolean {
  return head => text(head.subarray(0, magic.length)) === magic;
}

/** One character a byte. */
function text(bytes: Uint8Array): string {
  return String.fromCharCode(...bytes);
}
