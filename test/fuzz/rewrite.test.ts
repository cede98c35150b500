import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { OPERATORS } from '../../custom-ops/index.js';
import { SeededRandom } from '../../custom-ops/seeded-random.js';
import {
  decideUniformly,
  decodeModel,
  InputError,
  type Inspection,
  inspect,
  ModelGraph,
  rewriteModel,
} from '../../rewriter/index.js';
import { MemorySource } from '../../rewriter/onnx/byte-source.js';
import { concatenate } from '../../rewriter/onnx/bytes.js';
import { encodeVarint, fields, WireError, WireType } from '../../rewriter/onnx/wire.js';

/** Exports in the main forms of attention. */
const MODELS = [
  'packed-chunk-dynamo23',
  'ms-attention-causal',
  'ms-group-query-decoder',
  'alibi-legacy17',
  'vit-sdpa-legacy17',
  'sdpa-cross-dynamo18',
  'elementwise/exact-channel-first-legacy17',
  'structured-matmul/kronecker-dynamo18',
];

function zooModel(name: string): Uint8Array {
  return readFileSync(fileURLToPath(new URL(`../../../test/zoo/${name}.onnx`, import.meta.url)));
}

/** A field of a protobuf message, taken apart as far as its payload is a message itself. */
interface Part {
  readonly number: number;
  readonly wireType: WireType;
  payload: Uint8Array | Part[];
}

/** Null where the bytes are no message. */
function partsOf(bytes: Uint8Array): Part[] | null {
  try {
    return [...fields(new MemorySource(bytes), { start: 0, end: bytes.length })].map(field => {
      const payload = bytes.subarray(field.body, field.end);
      const inner = field.wireType === WireType.bytes && payload.length > 0 ? partsOf(payload) : null;
      return { number: field.number, wireType: field.wireType, payload: inner ?? payload };
    });
  } catch (error) {
    if (error instanceof WireError) return null;
    throw error;
  }
}

function encodeParts(parts: readonly Part[]): Uint8Array {
  return concatenate(
    parts.flatMap(({ number, wireType, payload }) => {
      const tag = encodeVarint(8 * number + wireType);
      const bytes = payload instanceof Uint8Array ? payload : encodeParts(payload);
      return wireType === WireType.bytes ? [tag, encodeVarint(bytes.length), bytes] : [tag, bytes];
    }),
  );
}

/** All messages of a tree of parts, the outermost included. */
function messagesIn(parts: Part[]): Part[][] {
  return [
    parts,
    ...parts.flatMap(({ payload }) => (payload instanceof Uint8Array ? [] : messagesIn(payload))),
  ];
}

/** Numbers at which sizes, counts and axes go wrong. */
const NUMBERS = [0, 1, 2, 3, 7, 256, 65536, 2 ** 31, 2 ** 53, -1, -2, -(2n ** 63n), 2n ** 63n - 1n];

/** Changes a number, or leaves out, repeats, exchanges or copies parts. */
function mutate(model: Part[], random: SeededRandom): void {
  const pick = <T>(items: readonly T[]): T => items[random.below(items.length)]!;
  const message = pick(messagesIn(model).filter(parts => parts.length > 0));
  const at = random.below(message.length);
  const numbers = messagesIn(model).flatMap(parts => parts.filter(part => part.wireType === WireType.varint));
  const blocks = messagesIn(model).flatMap(parts => parts.filter(part => part.wireType === WireType.bytes));
  const replace = (part: Part, payload: Part['payload']) => {
    part.payload = payload;
  };
  const changes = [
    () => replace(pick(numbers), encodeVarint(pick(NUMBERS))),
    () => replace(pick(blocks), structuredClone(pick(blocks).payload)),
    () => message.splice(at, 1),
    () => message.splice(at, 0, message[at]!),
    () => message.push(...message.splice(at, 1)),
  ];
  pick(changes)();
}

/** Rewrites all that can be, exact or not, and reads the result; null where the model is refused as bad input. */
function rewritten(bytes: Uint8Array): Inspection | null {
  try {
    const before = inspect(new ModelGraph(decodeModel(bytes)), OPERATORS);
    const [operator] = OPERATORS;
    const choice = { operator: operator!, settings: {}, fusions: OPERATORS, selects: () => true };
    const { model } = rewriteModel(bytes, sites => decideUniformly(sites, choice, null));
    assert.ok(new ModelGraph(decodeModel(model)).main.nodes.length > 0);
    return before;
  } catch (error) {
    if (error instanceof InputError) return null;
    throw error;
  }
}

describe('rewriting damaged exports gives a model or an InputError', () => {
  for (const name of MODELS) {
    it(`${name}, with parts changed`, () => {
      const bytes = zooModel(name);
      assert.ok(rewritten(bytes)!.sites.length > 0);
      const random = new SeededRandom(bytes.length);
      for (let round = 0; round < 5; round++) {
        const model = partsOf(bytes)!;
        for (let i = random.below(3); i >= 0; i--) mutate(model, random);
        rewritten(encodeParts(model));
      }
    });
  }

  /** The model with `found` replaced by as many bytes, everywhere. */
  function patched(name: string, found: string, bytes: string): Uint8Array {
    assert.equal(found.length, bytes.length);
    const text = Buffer.from(zooModel(name)).toString('latin1');
    assert.ok(text.includes(found), name);
    return Buffer.from(text.replaceAll(found, bytes), 'latin1');
  }

  it('heads that do not divide the channels are no site, and the reason is told', () => {
    const model = patched('ms-attention-causal', 'num_heads\x18\x04', 'num_heads\x18\x03');
    const { sites, near_misses } = rewritten(model)!;
    assert.equal(sites.length, 0);
    assert.match(near_misses[0]!.reason, /do not divide into 3 heads/);
  });

  it('axes that a permutation does not have are no reason to fail', () => {
    const model = patched('packed-chunk-dynamo23', '@\x00@\x02@\x01@\x03', '@\x09@\x02@\x01@\x03');
    assert.notEqual(rewritten(model), null);
  });
});
