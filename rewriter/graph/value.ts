import type { TensorInfo, TypeInfo } from '../onnx/model-info.js';
import type { Graph } from './graph.js';
import type { Node } from './node.js';

/** One input slot of a node, in this graph or in a subgraph that captures the value. */
export interface Use {
  readonly node: Node;
  readonly slot: number;
}

/** A value of a graph: an input, an initializer or the output of a node. */
export class Value {
  /** The node that computes it; null for inputs and initializers. */
  producer: Node | null = null;
  /** Which output of its producer it is. */
  slot = 0;
  readonly uses: Use[] = [];
  /** Graphs that give it as an output: its own, or a subgraph that captures it. */
  readonly outputOf: Graph[] = [];
  /** Stored elements; null for everything that is computed or fed. */
  initializer: TensorInfo | null = null;
  /** True for a graph input without a stored default. */
  fed = false;
  /** Type as the model declares it. */
  declared: TypeInfo | null = null;

  constructor(
    readonly name: string,
    readonly graph: Graph,
  ) {}
}
