import { elementCount } from '../../rewriter/onnx/element-size.js';
import { ARRAY_TYPES, type ElementType, type TensorValue } from './tensor.js';

/** NumPy dtype codes by element type; bool is one byte, float16 two. */
const CODES: Readonly<Record<ElementType, string>> = {
  float32: 'f4',
  float64: 'f8',
  float16: 'f2',
  int8: 'i1',
  int16: 'i2',
  int32: 'i4',
  int64: 'i8',
  uint8: 'u1',
  uint16: 'u2',
  uint32: 'u4',
  uint64: 'u8',
  bool: 'b1',
};

const MAGIC = '\x93NUMPY';
/** NumPy pads the header so that the data starts at a multiple of this. */
const ALIGNMENT = 64;

/**
 * Decodes a NumPy array file (format versions 1 to 3, little-endian, row- or column-major).
 * @throws Error with the reason when `bytes` is no such file or holds a dtype that ONNX models do not take
 */
export function decodeNpy(bytes: Uint8Array): TensorValue {
  if (bytes.length < 12 || latin1(bytes.subarray(0, 6)) !== MAGIC) throw new Error('not a NumPy array');
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const wide = bytes[6]! >= 2;
  const start = wide ? 12 : 10;
  const end = start + (wide ? view.getUint32(8, true) : view.getUint16(8, true));
  if (end > bytes.length) throw new Error('the header is cut off');
  const header = parseHeader(latin1(bytes.subarray(start, end)));
  const type = elementType(header.descr);
  const count = elementCount(header.shape);
  const arrayType = ARRAY_TYPES[type];
  const size = count * arrayType.BYTES_PER_ELEMENT;
  if (bytes.length - end < size) {
    throw new Error(
      `shape (${header.shape.join(', ')}) needs ${size} bytes, ${bytes.length - end} are there`,
    );
  }
  const data = new arrayType(Uint8Array.from(bytes.subarray(end, end + size)).buffer);
  const value = { type, dims: header.shape, data } as TensorValue;
  return header.fortranOrder && header.shape.length > 1 ? toRowMajor(value) : value;
}

/** Encodes a tensor as a NumPy array file, format version 1. */
export function encodeNpy(tensor: TensorValue): Uint8Array {
  const code = CODES[tensor.type];
  const descr = `${code.endsWith('1') ? '|' : '<'}${code}`;
  const shape = tensor.dims.length === 1 ? `${tensor.dims[0]},` : tensor.dims.join(', ');
  const dictionary = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${shape}), }`;
  const length = Math.ceil((10 + dictionary.length + 1) / ALIGNMENT) * ALIGNMENT;
  const out = new Uint8Array(length + tensor.data.byteLength);
  const head = `${MAGIC}\x01\x00`;
  const text = `${dictionary.padEnd(length - 10 - 1)}\n`;
  out.set(Uint8Array.from(head, character => character.charCodeAt(0)));
  new DataView(out.buffer).setUint16(8, length - 10, true);
  out.set(new TextEncoder().encode(text), 10);
  out.set(new Uint8Array(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength), length);
  return out;
}

interface Header {
  readonly descr: string;
  readonly fortranOrder: boolean;
  readonly shape: readonly number[];
}

/** The header is a Python dictionary literal with exactly three keys, written by `repr`. */
function parseHeader(text: string): Header {
  const descr = /'descr'\s*:\s*'([^']*)'/.exec(text)?.[1];
  const order = /'fortran_order'\s*:\s*(True|False)/.exec(text)?.[1];
  const shape = /'shape'\s*:\s*\(([\d\s,L]*)\)/.exec(text)?.[1];
  if (descr === undefined) throw new Error('a structured or unreadable dtype');
  if (order === undefined || shape === undefined) throw new Error('an unreadable header');
  const dims = shape
    .split(',')
    .map(part => part.trim())
    .filter(part => part !== '')
    .map(part => Number.parseInt(part, 10));
  return { descr, fortranOrder: order === 'True', shape: dims };
}

function elementType(descr: string): ElementType {
  if (descr.startsWith('>')) throw new Error(`big-endian data (dtype ${descr})`);
  const code = descr.slice(1);
  const found = (Object.keys(CODES) as ElementType[]).find(type => CODES[type] === code);
  if (found === undefined) throw new Error(`dtype ${descr} has no ONNX counterpart here`);
  return found;
}

function toRowMajor(tensor: TensorValue): TensorValue {
  const { dims, data } = tensor;
  const target = data.slice();
  const position = new Array<number>(dims.length).fill(0);
  for (let row = 0; row < data.length; row++) {
    let column = 0;
    for (let axis = dims.length - 1; axis >= 0; axis--) column = column * dims[axis]! + position[axis]!;
    target[row] = data[column]!;
    for (let axis = dims.length - 1; axis >= 0 && ++position[axis]! === dims[axis]; axis--)
      position[axis] = 0;
  }
  return { ...tensor, data: target } as TensorValue;
}

function latin1(bytes: Uint8Array): string {
  return String.fromCharCode(...bytes);
}
