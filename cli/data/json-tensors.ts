import { isRecord } from '../../rewriter/is-record.js';
import {
  type ElementType,
  isElement,
  isElementType,
  type TensorValue,
  tensorFrom,
  toNumbers,
} from './tensor.js';

/** What a number in a JSON file stands for where nothing else says so: the type of the model's input. */
export type TypeOfInput = (name: string) => ElementType | undefined;

/**
 * The tensors of a JSON document: an object from names to nested arrays of numbers or booleans, or to
 * `{ "dims": [...], "data": [...] }` with flat data and an optional `"type"`. Elements take the type of the
 * model's input of that name.
 * @throws Error with the reason, naming the input
 */
export function decodeJsonTensors(text: string, typeOf: TypeOfInput): Map<string, TensorValue> {
  const document: unknown = JSON.parse(text);
  if (!isRecord(document)) throw new Error('the document is not an object from input names to arrays');
  const tensors = new Map<string, TensorValue>();
  for (const [name, value] of Object.entries(document)) {
    try {
      tensors.set(name, decodeOne(value, typeOf(name)));
    } catch (error) {
      throw new Error(`input "${name}": ${(error as Error).message}`, { cause: error });
    }
  }
  return tensors;
}

/** A document that `decodeJsonTensors` reads back: type, dims and flat data of every tensor. */
export function encodeJsonTensors(tensors: ReadonlyMap<string, TensorValue>): string {
  const document: Record<string, unknown> = {};
  for (const [name, tensor] of tensors) {
    document[name] = { type: tensor.type, dims: tensor.dims, data: Array.from(toNumbers(tensor)) };
  }
  return `${JSON.stringify(document)}\n`;
}

function decodeOne(value: unknown, inputType: ElementType | undefined): TensorValue {
  if (!isRecord(value)) {
    const dims = shapeOf(value);
    const flat = [value].flat(Number.POSITIVE_INFINITY);
    return checkedTensor(inputType ?? guessType(flat), dims, flat);
  }
  const { dims, data, type } = value;
  if (!Array.isArray(data)) throw new Error('no array "data"');
  if (!Array.isArray(dims) || !dims.every(dim => Number.isInteger(dim) && dim >= 0)) {
    throw new Error('"dims" is not an array of sizes');
  }
  if (type !== undefined && (typeof type !== 'string' || !isElementType(type))) {
    throw new Error(`unknown type ${JSON.stringify(type)}`);
  }
  return checkedTensor(type ?? inputType ?? guessType(data), dims as number[], data);
}

/** @throws Error for an element that the type does not have */
function checkedTensor(
  type: ElementType,
  dims: readonly number[],
  elements: readonly unknown[],
): TensorValue {
  const numbers = elements.map(toNumber);
  const wrong = numbers.findIndex(number => !isElement(type, number));
  if (wrong >= 0) throw new Error(`${JSON.stringify(elements[wrong])} is not an element of ${type}`);
  return tensorFrom(type, dims, numbers);
}

/** @throws Error when the nested arrays are ragged */
function shapeOf(value: unknown): number[] {
  if (!Array.isArray(value)) return [];
  const inner = value.map(shapeOf);
  const first = inner[0] ?? [];
  if (inner.some(shape => shape.join() !== first.join())) throw new Error('rows of different lengths');
  return [value.length, ...first];
}

function guessType(flat: readonly unknown[]): ElementType {
  if (flat.length > 0 && flat.every(value => typeof value === 'boolean')) return 'bool';
  return flat.every(Number.isInteger) ? 'int64' : 'float32';
}

/** JSON has no NaN or infinities; `null` stands for NaN, as `JSON.stringify` writes it. */
function toNumber(value: unknown): number {
  if (value === null) return Number.NaN;
  if (typeof value === 'number' || typeof value === 'boolean') return Number(value);
  throw new Error(`${JSON.stringify(value)} is not a number`);
}
