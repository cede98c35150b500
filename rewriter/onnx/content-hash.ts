import type { Pieces } from './bytes.js';

const OFFSET_BASIS = 0xcbf29ce484222325n;
const PRIME = 0x100000001b3n;

/** FNV-1a, 64 bits, as 16 hexadecimal digits: a short name for content, not a protection against forgery. */
export function contentHash(pieces: Pieces): string {
  let hash = OFFSET_BASIS;
  for (const piece of pieces) {
    for (const byte of piece) hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * PRIME);
  }
  return hash.toString(16).padStart(16, '0');
}
