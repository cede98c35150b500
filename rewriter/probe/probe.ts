import type { Constants } from '../graph/constants.js';
import type { Graph } from '../graph/graph.js';
import type { ModelGraph } from '../graph/model-graph.js';
import type { Node } from '../graph/node.js';
import { readBy } from '../graph/slices.js';
import type { Value } from '../graph/value.js';
import { dataSample, type Feed, feedInput } from './feed.js';
import { ruleOf } from './rules/index.js';
import { elements, remembered, type Sample, SizeConflict, UnknownSample } from './sample.js';
import type { Sizes } from './sizes.js';

/** A probe with some samples replaced: the values computed from them are its own, all others the base's. */
interface Overlay {
  readonly kind: 'overlay';
  readonly base: Probe;
  readonly dependents: ReadonlySet<Value>;
}

/** A probe of a function's body for one call. */
interface Frame {
  readonly kind: 'frame';
  readonly caller: Probe;
  readonly call: Node;
  readonly body: Graph;
}

/**
 * A graph at sample sizes: shapes are worked out node by node, elements only where they are asked for. An
 * element that would need the model's weights at work (a projection, a normalization) is a made-up number that
 * changes with the feed's seed, so what depends on data shows by comparing seeds.
 */
export class Probe {
  private readonly samples = new Map<Value, Sample | UnknownSample>();
  private readonly frames = new Map<Node, Probe>();

  constructor(
    private readonly model: ModelGraph,
    readonly sizes: Sizes,
    readonly feed: Feed,
    /** What this probe is part of; null for a probe of the main graph. */
    private readonly within: Overlay | Frame | null = null,
  ) {}

  get constants(): Constants {
    return this.model.constants;
  }

  /** @throws UnknownSample when the value cannot be followed; the message says where and why */
  sample(value: Value): Sample {
    const owner = this.ownerOf(value);
    if (owner !== this) return owner.sample(value);
    if (!this.samples.has(value)) this.prepare(value);
    const sample = this.samples.get(value);
    if (sample === undefined) throw new UnknownSample(`'${value.name}' depends on itself`);
    if (sample instanceof UnknownSample) throw sample;
    return sample;
  }

  /** The sample, or null when the value cannot be followed. */
  tryToSample(value: Value): Sample | null {
    try {
      return this.sample(value);
    } catch (error) {
      if (error instanceof UnknownSample) return null;
      throw error;
    }
  }

  /**
   * This probe with the sample of `value` replaced; `dependents` are the values computed from it, and itself.
   * What depends on numbers put in place is computed throughout: products and normalizations are carried out.
   */
  withSample(value: Value, sample: Sample, dependents: ReadonlySet<Value>): Probe {
    const within = { kind: 'overlay', base: this, dependents } as const;
    const overlay = new Probe(this.model, this.sizes, this.feed, within);
    overlay.samples.set(value, sample);
    return overlay;
  }

  /** Whether this is a probe of values that depend on numbers put in place, or of a function called with them. */
  private get carriesOut(): boolean {
    const { within } = this;
    return within !== null && (within.kind === 'overlay' || within.caller.carriesOut);
  }

  /** Samples everything that `root` is computed from, producers first, with a stack of its own. */
  private prepare(root: Value): void {
    const stack = [root];
    const entered = new Set<Value>();
    for (let value = stack.at(-1); value !== undefined; value = stack.at(-1)) {
      if (this.samples.has(value)) {
        stack.pop();
        continue;
      }
      const { producer } = value;
      if (producer === null || entered.has(value)) {
        stack.pop();
        this.evaluate(value);
        continue;
      }
      entered.add(value);
      for (const input of readBy(producer)) if (this.pending(input) && !entered.has(input)) stack.push(input);
    }
  }

  private pending(value: Value): boolean {
    return !this.samples.has(value) && this.ownerOf(value) === this;
  }

  /** The probe that knows a value; one of a function body belongs to the first call. */
  private ownerOf(value: Value): Probe {
    const { within } = this;
    if (within?.kind === 'overlay') return within.dependents.has(value) ? this : within.base;
    const home = within === null ? this.model.main : within.body;
    if (value.graph === home || value.graph.root === home) return this;
    if (within !== null) return within.caller;
    const call = this.model.callOf(value.graph);
    return call === null ? this : this.frameOf(call);
  }

  /** The probe of a function's body for one call of it. */
  private frameOf(call: Node): Probe {
    let frame = this.frames.get(call);
    if (frame === undefined) {
      const body = this.model.bodyOf(call);
      if (body === null) throw new UnknownSample(`operator ${call.type} is not known here`);
      for (let outer = this.within; outer?.kind === 'frame'; outer = outer.caller.within) {
        if (outer.body === body) throw new UnknownSample(`function ${call.type} calls itself`);
      }
      frame = new Probe(this.model, this.sizes, this.feed, { kind: 'frame', caller: this, call, body });
      this.frames.set(call, frame);
    }
    return frame;
  }

  private evaluate(value: Value): void {
    const { producer } = value;
    if (producer === null) {
      this.samples.set(
        value,
        this.attempt(() => this.leaf(value)),
      );
      return;
    }
    const results = this.attempt(() => this.run(producer));
    producer.outputs.forEach((output, slot) => {
      if (output === null) return;
      const result = results instanceof UnknownSample ? results : results[slot];
      this.samples.set(
        output,
        this.orDeclared(output, result ?? new UnknownSample(`${producer.label} is unknown`)),
      );
    });
  }

  private attempt<T>(compute: () => T): T | UnknownSample {
    try {
      return compute();
    } catch (error) {
      if (error instanceof UnknownSample) return error;
      throw error;
    }
  }

  private run(node: Node): readonly (Sample | null)[] {
    const rule = ruleOf(node, this.carriesOut);
    try {
      if (node.takesAttributes) throw new UnknownSample('attributes come from the caller of a function');
      if (rule !== null) return rule(new NodeInputs(node, this));
      const frame = this.frameOf(node);
      return this.model.bodyOf(node)!.outputs.map(output => frame.tryToSample(output));
    } catch (error) {
      // The error comes by again for every node after the one that it is about.
      if (error instanceof UnknownSample && !error.located) {
        error.located = true;
        error.message = `${error.message} (at ${node.label})`;
      }
      throw error;
    }
  }

  private leaf(value: Value): Sample {
    const { initializer, declared } = value;
    if (initializer !== null) {
      const { dims, dataType } = initializer;
      const read = () => {
        const constant = this.constants.tensor(initializer);
        if (constant === null) throw new UnknownSample(`tensor '${value.name}' cannot be read as numbers`);
        return constant.data;
      };
      return { dims, dataType, at: index => read()[index]! };
    }
    if (value.fed && this.within?.kind === 'frame' && value.graph === this.within.body) {
      const { caller, call, body } = this.within;
      const input = call.inputs[body.inputs.indexOf(value)];
      return input == null ? fail(`the call leaves out '${value.name}'`) : caller.sample(input);
    }
    const dims = value.fed && value.graph.owner === null ? this.sizes.dimsOf(value) : null;
    if (dims !== null && declared !== null) return remembered(feedInput(value, dims, this.feed));
    return this.asDeclared(value) ?? fail(`nothing is known about '${value.name}'`);
  }

  /**
   * The result of an operator that is not followed takes the shape that the model declares; sizes that do not
   * fit stay an error, since the model does not run with them.
   */
  private orDeclared(value: Value, result: Sample | UnknownSample): Sample | UnknownSample {
    if (!(result instanceof UnknownSample) || result instanceof SizeConflict) return result;
    return this.asDeclared(value) ?? result;
  }

  private asDeclared(value: Value): Sample | null {
    const { declared } = value;
    if (declared?.dims == null) return null;
    const dims: number[] = [];
    for (const dim of declared.dims) {
      const size = typeof dim === 'string' ? this.sizes.size(dim) : dim;
      if (size === null) return null;
      dims.push(size);
    }
    return dataSample(value.name, dims, declared.dataType, this.feed.seed);
  }
}

function fail(message: string): never {
  throw new UnknownSample(message);
}

/** What the rule of an operator sees of its node. */
export class NodeInputs {
  constructor(
    readonly node: Node,
    readonly probe: Probe,
  ) {}

  /** Number of input slots. */
  get count(): number {
    return this.node.inputs.length;
  }

  /** @throws UnknownSample when the input is absent or cannot be followed */
  sample(slot: number): Sample {
    return this.optional(slot) ?? fail(`input ${slot} is missing`);
  }

  optional(slot: number): Sample | null {
    const value = this.node.inputs[slot];
    return value == null ? null : this.probe.sample(value);
  }

  all(): Sample[] {
    return this.node.inputs.filter(value => value !== null).map(value => this.probe.sample(value));
  }

  /** All elements of an integer input, such as a shape or a list of axes; null when it is absent. */
  integers(slot: number): number[] | null {
    const sample = this.optional(slot);
    return sample === null ? null : [...elements(sample)];
  }

  /** A list of integers that older opsets have as an attribute and newer ones as an input. */
  integersOrAttribute(slot: number, name: string): readonly number[] | null {
    return this.node.ints(name) ?? this.integers(slot);
  }

  /** Numbers in place of results that are not followed. */
  data(dims: readonly number[], dataType: Sample['dataType'], slot = 0): Sample {
    const name = this.node.outputs[slot]?.name ?? '';
    return dataSample(name, dims, dataType, this.probe.feed.seed);
  }
}
