import { ModelGraph } from '../../rewriter/graph/model-graph.js';
import { decodeModel } from '../../rewriter/onnx/decode.js';
import {
  type AttributeSpec,
  DataType,
  type GraphSpec,
  type ModelSpec,
  type NodeSpec,
  type TensorSpec,
  type ValueSpec,
} from '../../rewriter/onnx/spec.js';
import { floats, int64s, model } from './onnx/builders.js';

type Attributes = Readonly<Record<string, number | string | readonly number[] | GraphSpec>>;

/** Writes small graphs for tests: every method adds to the graph and returns the name of a value. */
export class Net {
  readonly inputs: ValueSpec[] = [];
  readonly nodes: NodeSpec[] = [];
  readonly initializers: TensorSpec[] = [];
  readonly outputs: ValueSpec[] = [];
  private count = 0;

  /** @param prefix of node names, as the legacy exporter's module paths */
  constructor(private readonly prefix = '') {}

  input(name: string, dims: ValueSpec['dims'], dataType = DataType.FLOAT): string {
    this.inputs.push(dims === undefined ? { name, dataType } : { name, dataType, dims });
    return name;
  }

  op(
    opType: string,
    inputs: readonly string[],
    attributes: Attributes = {},
    outputs?: readonly string[],
  ): string {
    const [domain, name] = opType.includes('::') ? opType.split('::') : ['', opType];
    const results = outputs ?? [`${name!.toLowerCase()}_${this.count++}`];
    this.nodes.push({
      opType: name!,
      domain: domain!,
      name: `${this.prefix}${name}_${results[0]}`,
      inputs,
      outputs: results,
      attributes: Object.fromEntries(
        Object.entries(attributes).map(([key, value]) => [key, attribute(value)]),
      ),
    });
    return results[0]!;
  }

  scalar(value: number): string {
    return this.tensor([], [value]);
  }

  tensor(dims: readonly number[], values: readonly number[]): string {
    return this.stored(floats(`float_${this.count++}`, dims, values));
  }

  ints(...values: number[]): string {
    return this.stored(int64s(`ints_${this.count++}`, [values.length], values));
  }

  int(value: number): string {
    return this.stored(int64s(`int_${this.count++}`, [], [value]));
  }

  stored(tensor: TensorSpec): string {
    this.initializers.push(tensor);
    return tensor.name!;
  }

  /** A dense layer with made-up weights, for an input of this type. */
  linear(x: string, from: number, to: number, dataType = DataType.FLOAT): string {
    const weights = this.tensor(
      [from, to],
      Array.from({ length: from * to }, (_, i) => Math.sin(1 + i + this.count)),
    );
    const typed = dataType === DataType.FLOAT ? weights : this.op('Cast', [weights], { to: dataType });
    return this.op('MatMul', [x, typed]);
  }

  output(name: string, dims: ValueSpec['dims'] = undefined, dataType = DataType.FLOAT): void {
    this.outputs.push(dims === undefined ? { name, dataType } : { name, dataType, dims });
  }

  graph(): GraphSpec {
    const { inputs, outputs, nodes, initializers } = this;
    return { name: 'net', inputs, outputs, nodes, initializers };
  }

  bytes(rest: Partial<ModelSpec> = {}): Uint8Array<ArrayBuffer> {
    return model(this.graph(), rest);
  }

  /** The graph as the rewriter sees it. */
  load(rest: Partial<ModelSpec> = {}): ModelGraph {
    return new ModelGraph(decodeModel(this.bytes(rest)));
  }
}

function attribute(value: Attributes[string]): AttributeSpec {
  if (typeof value === 'string') return { type: 'string', value };
  if (typeof value === 'number')
    return Number.isInteger(value) ? { type: 'int', value } : { type: 'float', value };
  if ('nodes' in value) return { type: 'graph', value };
  return { type: 'ints', value };
}
