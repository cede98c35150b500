import type { Attributes } from '../operator.js';

/** The attributes of one LocalAttention node (README, "Attributes"), typed. */
export interface LocalParameters {
  /** Factor on query . key; null = 1 / sqrt(D). */
  readonly scale: number | null;
  /** How many keys before its position a row sees; null = all. */
  readonly left: number | null;
  /** How many keys after its position a row sees; null = all. */
  readonly right: number | null;
  /** Position of row 0 among the keys; null = S - N. */
  readonly offset: number | null;
}

/** What stands for "all" on a node. */
const UNLIMITED = -1;

/** Attributes as they stand on a node. `scale` and `causal_offset` are left out when they follow from the shapes. */
export function attributesOf({ scale, left, right, offset }: LocalParameters): Attributes {
  return {
    ...(scale === null ? {} : { scale }),
    window_left: left ?? UNLIMITED,
    window_right: right ?? UNLIMITED,
    ...(offset === null ? {} : { causal_offset: offset }),
  };
}

/** Inverse of {@link attributesOf}, for attributes that `operator.ts` has validated. */
export function parametersOf(attributes: Attributes): LocalParameters {
  const optional = (name: string) => (attributes[name] === undefined ? null : Number(attributes[name]));
  const reach = (name: string) => (attributes[name] === UNLIMITED ? null : Number(attributes[name]));
  return {
    scale: optional('scale'),
    left: reach('window_left'),
    right: reach('window_right'),
    offset: optional('causal_offset'),
  };
}
