import { DataType } from '../../../rewriter/onnx/spec.js';
import type { GraphBuilder, Operand, Value } from '../../graph-builder.js';
import { HIDDEN } from '../../softmax-part.js';
import type { MultipoleParameters } from '../parameters.js';
import { exponentFrom, POWERS_OF_TWO } from './powers-of-two.js';
import type { Sizes } from './sizes.js';

/**
 * Units: runs of keys that are clustered on their own. Those of a flat hierarchy are the segments; a dyadic one
 * has units of 2^level segments too, numbered level by level. The clusters of unit u are u * keyClusters and
 * those that follow.
 */
export interface DyadicUnits {
  /** Levels of which rows see units. */
  readonly levels: Value;
  /** By level: number of units, and number of the first one. */
  readonly counts: Value;
  readonly first: Value;
  /** Units of all levels. */
  readonly total: Value;
}

/** @param segments segments of the keys; @param local whether rows have one of their own: else one level does */
export function dyadicUnits(b: GraphBuilder, segments: Value, local: true | Value): DyadicUnits {
  const counts = b.ceilDiv(segments, b.ints(POWERS_OF_TWO));
  const ends = b.cumSum(counts, 0);
  const most = levelsBefore(b, segments);
  const levels = local === true ? most : b.where(local, most, 1);
  return { levels, counts, first: b.sub(ends, counts), total: b.gather(ends, b.sub(levels, 1)) };
}

/** Levels with a unit that rows of some segment before `end` may see: two of its own length away. */
function levelsBefore(b: GraphBuilder, end: Value): Value {
  return b.max(b.sub(exponentFrom(b, end), 1), 1);
}

export function unitCount({ units, keySegments }: Sizes): Value {
  return units ? units.total : keySegments;
}

/** Segments in a unit, and number of the unit in its level. */
interface Place {
  readonly reach: Value;
  readonly number: Value;
}

function placeOf(
  b: GraphBuilder,
  unit: Value,
  { counts, first }: DyadicUnits,
): Place & { readonly level: Value } {
  const level = b.countTrue(b.lessOrEqual(b.add(first, counts), b.unsqueeze(unit, 1)));
  return {
    level,
    reach: b.gather(b.ints(POWERS_OF_TWO), level),
    number: b.sub(unit, b.gather(first, level)),
  };
}

/** Segments that each of `unit` is long: a power of two. */
export function segmentsOf(b: GraphBuilder, unit: Value, units: DyadicUnits): Value {
  return placeOf(b, unit, units).reach;
}

/**
 * Numbers of `unit` in the reference, which counts the segments that keys fill and not those that pad them, and
 * how many units those are; units beyond them get that number.
 */
export function referenceUnits(
  b: GraphBuilder,
  unit: Value,
  { units, keys, segment, keySegments }: Sizes,
): { readonly number: Value; readonly total: Value } {
  if (!units) return { number: unit, total: keySegments };
  const { level, number } = placeOf(b, unit, units);
  const counts = b.ceilDiv(b.ceilDiv(keys, segment), b.ints(POWERS_OF_TWO));
  const ends = b.cumSum(counts, 0);
  const total = b.gather(ends, b.sub(units.levels, 1));
  const start = b.gather(b.sub(ends, counts), level);
  return { number: b.where(b.less(number, b.gather(counts, level)), b.add(start, number), total), total };
}

/**
 * Units that rows of the segments [start, end) may see by summary, at least one: what a chunk has columns for.
 * For causal rows the list depends on start and end alone, and begins with what is recent: such rows care most
 * about that, and TopK is fastest when large values come first.
 */
export function farUnits(
  b: GraphBuilder,
  start: Value,
  end: Value,
  { units, keySegments, local }: Sizes,
  { causal, window }: MultipoleParameters,
): Value {
  const last = b.sub(end, 1);
  if (!units) return causal ? b.sub(last, b.range(end)) : b.range(keySegments);
  const dyadic = (outer: GraphBuilder): Value => {
    const levels = causal ? levelsBefore(outer, end) : units.levels;
    const { state } = outer.loop(levels, [outer.full([0], 0, DataType.INT64)], (inner, level, [found]) => {
      const reach = inner.gather(inner.ints(POWERS_OF_TWO), level);
      const beside = inner.min(level, 1);
      const parentReach = inner.mul(reach, 2);
      const before = (own: Value, length: Value, apart: Operand) =>
        inner.max(
          inner.min(inner.sub(inner.div(own, length), apart), inner.div(inner.sub(own, window), length)),
          0,
        );
      const after = (own: Value, length: Value, apart: Operand) =>
        inner.add(
          inner.max(inner.add(inner.div(own, length), apart), inner.div(inner.add(own, window), length)),
          1,
        );
      const number = inner.gather(units.first, level);
      // Units whose parents are too near to stand for them, as far as they are far enough themselves.
      const from = inner.mul(before(start, parentReach, 1), 2);
      const to = before(last, reach, beside);
      const count = inner.max(inner.sub(to, from), 0);
      if (causal) {
        const recentFirst = inner.sub(inner.sub(to, 1), inner.range(count));
        return { state: [inner.concat([found!, inner.add(recentFirst, number)], 0)], stacked: [] };
      }
      const laterFrom = inner.max(after(start, reach, beside), to);
      const laterTo = inner.min(inner.mul(after(last, parentReach, 1), 2), inner.gather(units.counts, level));
      const later = inner.add(inner.range(inner.max(inner.sub(laterTo, laterFrom), 0)), laterFrom);
      const earlier = inner.add(inner.range(count), from);
      return {
        state: [inner.concat([found!, inner.add(inner.concat([earlier, later], 0), number)], 0)],
        stacked: [],
      };
    });
    const found = state[0]!;
    return outer.concat([found, outer.range(outer.max(outer.sub(1, outer.dim(found, 0)), 0))], 0);
  };
  if (typeof local === 'boolean') return dyadic(b);
  return b.ifElse(
    local,
    inner => [dyadic(inner)],
    inner => [inner.range(keySegments)],
  )[0]!;
}

/** 0 or HIDDEN: whether rows of segment `own` [n,1] see the clusters of `units` [U] by summary: [n,U*clusters]. */
export function farTable(
  b: GraphBuilder,
  own: Value,
  units: Value,
  sizes: Sizes,
  parameters: MultipoleParameters,
): Value {
  const { causal, window, keyClusters } = parameters;
  const { local } = sizes;
  /** Whether a unit of `reach` segments lies outside the window, and, if `apart`, two of its length away. */
  const admissible = ({ reach, number }: Place, apart: Value | null): Value => {
    const firstSegment = b.mul(number, reach);
    const behind = b.sub(own, b.add(firstSegment, b.sub(reach, 1)));
    const outside = b.greater(behind, window);
    const far = causal ? outside : b.or(outside, b.greater(b.sub(firstSegment, own), window));
    if (!apart) return far;
    return b.and(far, b.greater(b.abs(b.sub(b.div(own, reach), number)), apart));
  };
  let seen: Value;
  if (sizes.units) {
    const place = placeOf(b, units, sizes.units);
    const parent = { reach: b.mul(place.reach, 2), number: b.div(place.number, 2) };
    // Segments themselves may be neighbors: any distance is above -1.
    const apart = b.where(b.greater(place.reach, 1), 1, b.ints([-1]));
    seen = b.and(admissible(place, apart), b.not(admissible(parent, b.ints([1]))));
  } else {
    seen = admissible({ reach: b.ints([1]), number: units }, null);
  }
  const shown = typeof local === 'boolean' ? seen : b.or(seen, b.not(local));
  const table = b.where(shown, 0, b.constant(HIDDEN, DataType.FLOAT));
  const rows = b.dim(table, 0);
  return b.reshape(b.expand(b.unsqueeze(table, 2), [rows, b.dim(units, 0), keyClusters]), [
    rows,
    b.mul(b.dim(units, 0), keyClusters),
  ]);
}

/** Where each of `units` stands in `list`; any place for one that does not. */
export function placesIn(b: GraphBuilder, units: Value, list: Value): Value {
  const same = b.equal(b.unsqueeze(units, 1), list);
  const place = b.range(b.dim(list, 0));
  return b.squeeze(b.reduceMax(b.where(same, place, 0), -1), 1);
}
