import assert from 'node:assert/strict';
import { InputError } from '../../../rewriter/errors.js';
import { decodeModel } from '../../../rewriter/onnx/decode.js';
import { incrementModel } from './builders.js';

/** One byte a character. */
const bytes = (text: string) => Uint8Array.from(text, character => character.charCodeAt(0));
const header = '{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}';

const FILES: Record<string, { file: string; contents: Uint8Array; says: RegExp; remedy: RegExp }> = {
  'an empty file': { file: 'm.onnx', contents: bytes(''), says: /is empty/, remedy: /download/ },
  'a ZIP archive': {
    file: 'm.pt',
    contents: bytes('PK\x03\x04\x14\x00\x08\x08data.pkl'),
    says: /archive \(ZIP\)/,
    remedy: /[Uu]npack/,
  },
  'a gzip file': {
    file: 'm.gz',
    contents: bytes('\x1f\x8b\x08\x00\x00'),
    says: /gzip/,
    remedy: /Decompress/,
  },
  'a pickle': {
    file: 'm.bin',
    contents: bytes('\x80\x02}q\x00.'),
    says: /pickled PyTorch/,
    remedy: /Export/,
  },
  'a Git LFS pointer': {
    file: 'm.onnx',
    contents: bytes('version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n'),
    says: /Git LFS pointer/,
    remedy: /git lfs pull/,
  },
  'an ONNX Runtime format model': {
    file: 'm.ort',
    contents: bytes('\x1c\x00\x00\x00ORTM\x00\x00\x00\x00'),
    says: /ONNX Runtime format/,
    remedy: /\.onnx file that it was converted from/,
  },
  'a TensorFlow Lite model': {
    file: 'm',
    contents: bytes('\x1c\x00\x00\x00TFL3\x00'),
    says: /Lite/,
    remedy: /tf2onnx/,
  },
  'a GGUF model': { file: 'm', contents: bytes('GGUF\x03\x00\x00\x00'), says: /GGUF/, remedy: /Export/ },
  'an HDF5 file': { file: 'm.h5', contents: bytes('\x89HDF\r\n\x1a\n'), says: /HDF5/, remedy: /tf2onnx/ },
  'a NumPy array': { file: 'm.npy', contents: bytes('\x93NUMPY\x01\x00'), says: /NumPy/, remedy: /inputs/ },
  'a safetensors file': {
    file: 'm.safetensors',
    contents: bytes(`${String.fromCharCode(header.length)}\0\0\0\0\0\0\0${header}\0\0\0\0`),
    says: /safetensors/,
    remedy: /Export/,
  },
  'a text file': {
    file: 'm.onnx',
    contents: bytes('ir_version: 8\ngraph {\n}\n'),
    says: /text file/,
    remedy: /binary protobuf/,
  },
  'external data': {
    file: 'model.onnx_data',
    contents: new Uint8Array(Float32Array.of(0.1, -0.5, 3).buffer),
    says: /by its name, the weights/,
    remedy: /Give the \.onnx file/,
  },
  'a model cut off': {
    file: 'm.onnx',
    contents: incrementModel().subarray(0, 60),
    says: /not a readable ONNX model.*truncated/,
    remedy: /damaged or incomplete/,
  },
};

describe('decodeModel says what a file is that is no model:', () => {
  for (const [what, { file, contents, says, remedy }] of Object.entries(FILES)) {
    it(what, () => {
      assert.throws(
        () => decodeModel(contents, { file }),
        (error: unknown) => {
          assert.ok(error instanceof InputError);
          assert.match(error.message, says);
          assert.ok(error.message.startsWith(`${file}: `));
          assert.match(error.details.remedy ?? '', remedy);
          return true;
        },
      );
    });
  }
});
