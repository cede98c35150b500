import type { Node } from '../graph/node.js';
import type { Value } from '../graph/value.js';
import { DataType } from '../onnx/spec.js';
import type { Probe } from '../probe/probe.js';
import { type Sample, UnknownSample } from '../probe/sample.js';
import type { Structure } from '../probe/structure.js';
import type { Extent, LogitSource, Place } from './logits.js';

/** What a single operator that computes attention does to the products of query and key. */
export interface FusedScores {
  /** Scale, or null for one over the root of the head size. */
  readonly scale: number | null;
  readonly headDim: (probe: Probe) => number;
  /** softcap * tanh(x / softcap) before masks; 0 for none. */
  readonly softcap: number;
  readonly causal: boolean;
  /** Keys visible before and after the position of the query; null for all. */
  readonly window: { readonly left: number | null; readonly right: number | null };
  /** Position of the first query row among the keys, of a batch row. */
  readonly offset: (probe: Probe, extent: Extent, b: number) => number;
  readonly masks: readonly FusedMask[];
}

/** A mask input of such an operator. */
export interface FusedMask {
  readonly value: Value;
  /** Axes of the score matrix that the mask has, outermost first. */
  readonly axes: readonly (keyof Place)[];
  /**
   * 'add': added to the logits; 'keep': zero hides; 'count': the number of visible keys; 'last': the index of
   * the last visible key.
   */
  readonly meaning: 'add' | 'keep' | 'count' | 'last';
  /** Logit, or addition to the logit, of a hidden key. */
  readonly hidden: number;
}

/** The logits of an operator that takes scale and masks as attributes and inputs. */
export class FusedLogits implements LogitSource {
  readonly terms: readonly Value[];
  readonly masked: boolean;
  readonly distances: readonly number[];

  /** @param node the operator */
  constructor(
    private readonly node: Node,
    private readonly scores: FusedScores,
  ) {
    this.terms = scores.masks.map(mask => mask.value);
    const { left, right } = scores.window;
    this.distances = [left, right].filter(distance => distance !== null);
    this.masked = scores.causal || left !== null || right !== null || scores.masks.length > 0;
  }

  identity(structure: Structure): string {
    // Inputs other than masks take part by their sizes alone.
    return structure.ofNode(this.node, input =>
      this.terms.includes(input) ? structure.ofValue(input) : structure.ofShape(input),
    );
  }

  at(probe: Probe, extent: Extent): (place: Place, product: number) => number {
    const { softcap, causal, window } = this.scores;
    const scale = this.scores.scale ?? 1 / Math.sqrt(this.scores.headDim(probe));
    const masks = this.scores.masks.map(mask => readMask(mask, probe.sample(mask.value), extent));
    const offsets = Array.from({ length: extent.batch }, (_, b) => this.scores.offset(probe, extent, b));
    return (place, product) => {
      const scaled = scale * product;
      let logit = softcap === 0 ? scaled : softcap * Math.tanh(scaled / softcap);
      const distance = place.j - (place.i + offsets[place.b]!);
      const after = Math.min(causal ? 0 : Number.POSITIVE_INFINITY, window.right ?? Number.POSITIVE_INFINITY);
      if (distance > after || -distance > (window.left ?? Number.POSITIVE_INFINITY))
        return Number.NEGATIVE_INFINITY;
      for (const mask of masks) logit += mask(place);
      return logit;
    };
  }
}

/** What a mask adds to the logit of a place. */
function readMask(mask: FusedMask, sample: Sample, extent: Extent): (place: Place) => number {
  const sizes = { b: extent.batch, h: extent.heads, i: extent.rows, j: extent.columns };
  const { axes, meaning, hidden } = mask;
  const { dims } = sample;
  const shown = axes.slice(axes.length - dims.length);
  for (const [k, axis] of shown.entries()) {
    const short = axis === 'j' && dims[k]! < sizes.j;
    if (dims[k] !== 1 && dims[k] !== sizes[axis] && !short) {
      throw new UnknownSample(`mask '${mask.value.name}' [${dims.join(', ')}] does not fit the scores`);
    }
  }
  const additive = meaning === 'add' && sample.dataType !== DataType.BOOL;
  return place => {
    let index = 0;
    for (const [k, axis] of shown.entries()) {
      const size = dims[k]!;
      // A mask of fewer keys hides the rest.
      if (size !== 1 && place[axis] >= size) return hidden;
      index = index * size + (size === 1 ? 0 : place[axis]);
    }
    const element = sample.at(index);
    if (additive) return element;
    if (meaning === 'count') return place.j < element ? 0 : hidden;
    if (meaning === 'last') return place.j <= element ? 0 : hidden;
    return element !== 0 ? 0 : hidden;
  };
}
