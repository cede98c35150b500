import type { AttentionSite } from '../rewriter/site.js';
import type { Attributes, AttributeValue, OperatorDefinition } from './operator.js';

/** Attributes that differ from the operator's defaults. */
export type TuningSettings = Readonly<Record<string, AttributeValue>>;

/** Multiply-adds of one site and batch row, in units of its own. */
export interface Operations {
  readonly exact: number;
  /** Null where it is not known; the most, where data decides. */
  readonly chosen: number | null;
  /** The fewest, where data decides. */
  readonly least?: number | null;
}

/** An attribute that may differ from query head to query head: one number for all, or one per head. */
export interface PerHeadAttribute {
  readonly name: string;
  /** The numbers worth trying, from fast to accurate, without the one that makes attention exact. */
  readonly levels: readonly number[];
}

/**
 * Where the tuner looks for a faster form of an attention site. Settings are never ones whose loss means nothing:
 * on causal sites, all are strictly causal.
 */
export interface TuningSpace {
  readonly operator: OperatorDefinition;
  /** Settings with which the operator computes exact attention; null where it cannot. */
  readonly exact: TuningSettings | null;
  /** Settings to begin with: few, and as different as may be of use. */
  candidates(site: AttentionSite): readonly TuningSettings[];
  /** Settings one step away from some that turned out well. */
  neighbors(site: AttentionSite, settings: TuningSettings): readonly TuningSettings[];
  /** Null where there is none. Cost and error of a head do not depend on the numbers of the others. */
  readonly perHead: PerHeadAttribute | null;
  /** What self-attention of `heads` query heads over `length` tokens takes, exactly and with these attributes. */
  operations(attributes: Attributes, heads: number, length: number): Operations;
}

/** The numbers of a per-head attribute, one for each of `heads` query heads. */
export function perHeadNumbers(value: AttributeValue | undefined, heads: number): readonly number[] {
  const numbers = [value ?? 0].flat().map(Number);
  return numbers.length === 1 ? Array.from({ length: heads }, () => numbers[0]!) : numbers;
}
