/**
 * Conversions between float32 and the 16-bit float formats of ONNX, element by element. Narrowing rounds to
 * nearest, ties to even; too large becomes infinity, NaN stays NaN, subnormals are kept.
 */

const scratch = new Float32Array(1);
const bits = new Uint32Array(scratch.buffer);

/** IEEE 754 binary16 (bit patterns) to float32. */
export function float16ToFloat32(source: Uint16Array): Float32Array {
  return Float32Array.from(source, widenHalf);
}

/** float32 to IEEE 754 binary16 (bit patterns). */
export function float32ToFloat16(source: Float32Array): Uint16Array {
  return Uint16Array.from(source, narrowToHalf);
}

/** bfloat16 (bit patterns) to float32. */
export function bfloat16ToFloat32(source: Uint16Array): Float32Array {
  const result = new Float32Array(source.length);
  const words = new Uint32Array(result.buffer);
  for (let i = 0; i < source.length; i++) words[i] = source[i]! << 16;
  return result;
}

/** float32 to bfloat16 (bit patterns). */
export function float32ToBfloat16(source: Float32Array): Uint16Array {
  return Uint16Array.from(source, value => {
    scratch[0] = value;
    const word = bits[0]!;
    if (Number.isNaN(value)) return (word >>> 16) | 0x40;
    return (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  });
}

function widenHalf(half: number): number {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >>> 10) & 0x1f;
  const fraction = half & 0x3ff;
  if (exponent === 0x1f) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

function narrowToHalf(value: number): number {
  scratch[0] = value;
  const word = bits[0]!;
  const sign = (word >>> 16) & 0x8000;
  const magnitude = word & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  // 65520 and above round to infinity.
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude >= 0x38800000) {
    // Normal: rebias the exponent by 112, then round away the low 13 bits of the fraction.
    return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
  }
  // Subnormal: in units of 2^-24. Adding 2^23 of them makes float32 arithmetic itself round to a whole number.
  scratch[0] = Math.abs(value) + 0.5;
  return sign | (bits[0]! - 0x3f000000);
}
