/** Bytes in pieces, so that nesting a message in another copies nothing. */
export type Pieces = readonly Uint8Array[];

export function totalLength(pieces: Pieces): number {
  return pieces.reduce((sum, piece) => sum + piece.length, 0);
}

export function concatenate(pieces: Pieces): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(totalLength(pieces));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}
