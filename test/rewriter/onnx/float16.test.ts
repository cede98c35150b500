import assert from 'node:assert/strict';
import {
  bfloat16ToFloat32,
  float16ToFloat32,
  float32ToBfloat16,
  float32ToFloat16,
} from '../../../rewriter/onnx/float16.js';

const ALL_PATTERNS = Uint16Array.from({ length: 65536 }, (_, i) => i);

interface Format {
  widen(bits: Uint16Array): Float32Array;
  narrow(values: Float32Array): Uint16Array;
  /** Positive infinity. */
  infinity: number;
}

const FORMATS: Record<string, Format> = {
  float16: { widen: float16ToFloat32, narrow: float32ToFloat16, infinity: 0x7c00 },
  bfloat16: { widen: bfloat16ToFloat32, narrow: float32ToBfloat16, infinity: 0x7f80 },
};

describe('16-bit floats', () => {
  it('widens float16 to the values of IEEE 754', () => {
    const cases: [number, number][] = [
      [0x0000, 0],
      [0x8000, -0],
      [0x3c00, 1],
      [0xc000, -2],
      [0x7bff, 65504],
      [0x0400, 2 ** -14],
      [0x03ff, 1023 * 2 ** -24],
      [0x0001, 2 ** -24],
      [0x7c00, Number.POSITIVE_INFINITY],
      [0xfc00, Number.NEGATIVE_INFINITY],
      [0x7e00, Number.NaN],
      [0x3555, 0.333251953125],
    ];
    const values = float16ToFloat32(Uint16Array.from(cases, ([bits]) => bits));
    for (const [i, [, expected]] of cases.entries()) assert.ok(Object.is(values[i], expected));
  });

  for (const [name, { widen, narrow, infinity }] of Object.entries(FORMATS)) {
    describe(name, () => {
      const wide = widen(ALL_PATTERNS);

      it('survives the way there and back, all 65536 patterns', () => {
        const back = narrow(wide);
        for (const bits of ALL_PATTERNS) {
          if (Number.isNaN(wide[bits])) assert.ok(Number.isNaN(widen(back.subarray(bits, bits + 1))[0]));
          else assert.equal(back[bits], bits);
        }
      });

      it('rounds to nearest, ties to even, between all neighbours', () => {
        for (let bits = 0; bits < infinity - 1; bits++) {
          const [low, high] = [wide[bits]!, wide[bits + 1]!];
          const middle = (low + high) / 2;
          const even = bits % 2 === 0 ? bits : bits + 1;
          const around = Float32Array.of(middle, nextFloat(middle, -1), nextFloat(middle, 1), -middle);
          assert.deepEqual([...narrow(around)], [even, bits, bits + 1, even | 0x8000], `at ${low}`);
        }
      });

      it('goes to infinity from half a step above the largest', () => {
        const largest = wide[infinity - 1]!;
        const step = largest - wide[infinity - 2]!;
        const edge = largest + step / 2;
        const values = Float32Array.of(edge, nextFloat(edge, -1), Number.POSITIVE_INFINITY, -edge);
        assert.deepEqual([...narrow(values)], [infinity, infinity - 1, infinity, infinity | 0x8000]);
      });

      it('rounds what is far below the smallest to zero of its sign', () => {
        assert.deepEqual([...narrow(Float32Array.of(1e-45 * 0, -0))], [0, 0x8000]);
        const tiny = wide[1]! / 2;
        assert.deepEqual([...narrow(Float32Array.of(tiny, -tiny))], [0, 0x8000]);
      });
    });
  }
});

/** The float32 next to a positive one. */
function nextFloat(value: number, direction: 1 | -1): number {
  const bits = new Uint32Array(Float32Array.of(value).buffer);
  bits[0] = bits[0]! + direction;
  return new Float32Array(bits.buffer)[0]!;
}
