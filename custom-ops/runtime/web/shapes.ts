import { InputError } from '../../../rewriter/errors.js';

/** Dims of an input; null where the node does not connect it. */
export type OptionalDims = readonly number[] | null | undefined;

/** Sizes of an attention: B, H, G, N, S, D and E. */
export interface AttentionSizes {
  readonly batch: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly queries: number;
  readonly keys: number;
  readonly headDim: number;
  readonly valueDim: number;
}

/** Checks the shapes of one operator's inputs. */
export class ShapeChecks {
  constructor(private readonly opType: string) {}

  /** @throws InputError unless the input is there and has `rank` dimensions */
  ranked(dims: OptionalDims, name: string, rank: number): readonly number[] {
    if (dims?.length === rank) return dims;
    throw new InputError(`${this.opType}: ${name} must have ${rank} dimensions`);
  }

  /** @throws InputError when an input is there with another shape */
  expect(dims: OptionalDims, name: string, wanted: readonly number[]): void {
    if (!dims || (dims.length === wanted.length && wanted.every((size, axis) => dims[axis] === size))) return;
    this.refuse(`${name} has the shape [${dims.join(', ')}], expected [${wanted.join(', ')}]`);
  }

  /** @throws InputError unless query heads come in equal groups, one for each key head */
  groupedHeads(heads: number, kvHeads: number): void {
    if (kvHeads > 0 ? heads % kvHeads !== 0 : heads > 0) {
      this.refuse(`${kvHeads} key heads do not divide ${heads} query heads`);
    }
  }

  /** @throws InputError */
  refuse(problem: string): never {
    throw new InputError(`${this.opType}: ${problem}`);
  }
}
