import assert from 'node:assert/strict';
import { SeededRandom } from '../../../custom-ops/seeded-random.js';
import { MemorySource } from '../../../rewriter/onnx/byte-source.js';
import { concatenate, type Pieces } from '../../../rewriter/onnx/bytes.js';
import { field } from '../../../rewriter/onnx/encode.js';
import type { ByteRange, FieldRange } from '../../../rewriter/onnx/model-info.js';
import { type Splice, segmentsLength, spliceMessage } from '../../../rewriter/onnx/splice.js';
import { fields } from '../../../rewriter/onnx/wire.js';
import { writeToMemory } from '../../../rewriter/onnx/write.js';

/** A message as a tree: field 1 holds a message, field 2 bytes. */
type Tree = Uint8Array | Tree[];

const MESSAGE = 1;
const LEAF = 2;

function encodeChild(child: Tree): Pieces {
  return child instanceof Uint8Array ? field(LEAF, [child]) : field(MESSAGE, child.flatMap(encodeChild));
}

function encode(tree: Tree[]): Uint8Array {
  return concatenate(tree.flatMap(encodeChild));
}

/** Lengths near the ones where the varint of a length grows, and small ones. */
const LENGTHS = [0, 1, 2, 5, 60, 120, 124, 125, 126, 127, 128, 129, 16376, 16380, 16383, 16384];

function randomLeaf(random: SeededRandom): Uint8Array {
  return new Uint8Array(LENGTHS[random.below(LENGTHS.length)]!).fill(random.below(256));
}

function randomTree(random: SeededRandom, depth: number): Tree[] {
  return Array.from({ length: random.below(5) }, () =>
    depth > 0 && random.uniform() < 0.6 ? randomTree(random, depth - 1) : randomLeaf(random),
  );
}

/** Random insertions and removals all over `tree`: the splices, and the tree that they should give. */
function randomEdits(
  random: SeededRandom,
  source: MemorySource,
  tree: Tree[],
  range: ByteRange,
  enclosing: readonly FieldRange[],
  splices: Splice[],
): Tree[] {
  const edited: Tree[] = [];
  const insertAt = (at: number) => {
    while (random.uniform() < 0.2) {
      const leaf = randomLeaf(random);
      splices.push({ range: { start: at, end: at }, pieces: field(LEAF, [leaf]), enclosing });
      edited.push(leaf);
    }
  };
  for (const [i, place] of [...fields(source, range)].entries()) {
    insertAt(place.start);
    const child = tree[i]!;
    if (random.uniform() < 0.2) splices.push({ range: place, pieces: [], enclosing });
    else if (child instanceof Uint8Array) edited.push(child);
    else {
      const inside = { start: place.body, end: place.end };
      edited.push(randomEdits(random, source, child, inside, [...enclosing, place], splices));
    }
  }
  insertAt(range.end);
  return edited;
}

describe('spliceMessage', () => {
  it('copies the source when there is nothing to do', () => {
    const source = new MemorySource(encode([Uint8Array.of(1, 2, 3)]));
    assert.deepEqual(spliceMessage(source, []), [{ start: 0, end: source.length }]);
  });

  it('gives what encoding the edited tree gives, for random trees and edits', () => {
    const random = new SeededRandom(1);
    for (let round = 0; round < 2000; round++) {
      const tree = randomTree(random, 5);
      const source = new MemorySource(encode(tree));
      const splices: Splice[] = [];
      const edited = randomEdits(random, source, tree, { start: 0, end: source.length }, [], splices);
      const segments = spliceMessage(source, splices);
      const output = writeToMemory(source, segments);
      assert.ok(Buffer.compare(output, encode(edited)) === 0, `round ${round}`);
      assert.equal(segmentsLength(segments), output.length);
    }
  });

  it('keeps a length that is written longer than it needs to be, unless it changes', () => {
    // Field 1 holding field 2 with one byte; both lengths are padded to two bytes.
    const bytes = Uint8Array.of(0x0a, 0x84, 0x00, 0x12, 0x81, 0x00, 0x05);
    const source = new MemorySource(bytes);
    const outer = { start: 0, body: 3, end: 7 };
    const insert = (pieces: Pieces) => [{ range: { start: 7, end: 7 }, pieces, enclosing: [outer] }];
    assert.deepEqual(writeToMemory(source, spliceMessage(source, insert([]))), bytes);
    assert.deepEqual(
      [...writeToMemory(source, spliceMessage(source, insert([Uint8Array.of(0x18, 1)])))],
      [0x0a, 6, 0x12, 0x81, 0x00, 0x05, 0x18, 1],
    );
  });

  it('refuses splices that overlap', () => {
    const source = new MemorySource(new Uint8Array(10));
    const splice = (start: number, end: number) => ({ range: { start, end }, pieces: [], enclosing: [] });
    assert.throws(() => spliceMessage(source, [splice(0, 5), splice(4, 6)]), RangeError);
  });
});
