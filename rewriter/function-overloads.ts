import { concatenate, type Pieces } from './onnx/bytes.js';
import { contentHash } from './onnx/content-hash.js';
import { encodeFunction } from './onnx/encode.js';
import type { FunctionInfo, ModelInfo } from './onnx/model-info.js';
import type { FunctionSpec } from './onnx/spec.js';

/** First IR version with model-local functions, and first with several of one name. */
const IR_WITH_FUNCTIONS = 8;
const IR_WITH_OVERLOADS = 10;

/** How function bodies enter a model. */
export interface FunctionOverloads {
  /** The overload that nodes of each body name, in the order of the bodies. */
  readonly overloads: readonly string[];
  /** The functions that the model lacks, each once. */
  readonly added: readonly FunctionSpec[];
  /** Lowest IR version that can hold them. */
  readonly irVersion: number;
}

/**
 * A function is found by domain, name and overload. The only body of a name has no overload; several are told
 * apart by the hash of their content. Functions that the model has already serve again where they are equal.
 */
export function planFunctions(model: ModelInfo, bodies: readonly FunctionSpec[]): FunctionOverloads {
  const contents = new Map(bodies.map(body => [body, encodeFunction({ ...body, overload: '' })]));
  const hashes = new Map([...contents].map(([body, content]) => [body, contentHash(content)]));
  const added = new Map<string, FunctionSpec>();
  const overloads = bodies.map(body => {
    const sameName = ({ domain, name }: { readonly domain: string; readonly name: string }) =>
      domain === body.domain && name === body.name;
    const present = model.functions.filter(sameName);
    const variants = new Set(bodies.filter(sameName).map(other => hashes.get(other)));
    const plain = present.find(({ overload }) => overload === '');
    const isPlain = plain
      ? holds(model, plain, contents.get(body)!)
      : present.length === 0 && variants.size === 1;
    const overload = isPlain ? '' : hashes.get(body)!;
    if (!present.some(other => other.overload === overload)) {
      added.set(`${body.domain}:${body.name}:${overload}`, { ...body, overload });
    }
    return overload;
  });
  const named = overloads.some(overload => overload !== '');
  return { overloads, added: [...added.values()], irVersion: named ? IR_WITH_OVERLOADS : IR_WITH_FUNCTIONS };
}

function holds(model: ModelInfo, { range }: FunctionInfo, content: Pieces): boolean {
  const expected = concatenate(content);
  const present = model.source.bytes(range.body, range.end);
  return expected.length === present.length && expected.every((byte, i) => byte === present[i]);
}
