import type { AttentionSite } from '../rewriter/site.js';
import type { Attributes, AttributeValue, OperatorDefinition } from './operator.js';

/** Attributes that differ from the operator's defaults. */
export type TuningSettings = Readonly<Record<string, AttributeValue>>;

/** Multiply-adds of one site and batch row, in units of its own. */
export interface Operations {
  readonly exact: number;
  /** Null where it depends on data. */
  readonly chosen: number | null;
}

/** Where the tuner looks for a faster form of an attention site. */
export interface TuningSpace {
  readonly operator: OperatorDefinition;
  /** Settings with which the operator computes exact attention; null where it cannot. */
  readonly exact: TuningSettings | null;
  /**
   * Settings worth measuring on a site. On causal sites they are strictly causal: a choice that sees later
   * tokens gives a loss that means nothing.
   */
  candidates(site: AttentionSite): readonly TuningSettings[];
  /**
   * The attribute that may differ from query head to query head, as one number for all or one per head; null
   * where there is none. Cost and error of a head do not depend on the numbers of the others.
   */
  readonly perHead: string | null;
  /** What self-attention of `heads` query heads over `length` tokens takes, exactly and with these attributes. */
  operations(attributes: Attributes, heads: number, length: number): Operations;
}

/** The numbers of a per-head attribute, one for each of `heads` query heads. */
export function perHeadNumbers(value: AttributeValue | undefined, heads: number): readonly number[] {
  const numbers = [value ?? 0].flat().map(Number);
  return numbers.length === 1 ? Array.from({ length: heads }, () => numbers[0]!) : numbers;
}
