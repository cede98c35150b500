import { InputError } from '../errors.js';
import type { GraphInfo, NodeInfo, NodeListInfo, ValueInfo } from '../onnx/model-info.js';
import { Node } from './node.js';
import { topologicalOrder } from './order.js';
import { requiredInputs } from './required-inputs.js';
import { Value } from './value.js';

/** The node and attribute that a subgraph belongs to. */
export interface Owner {
  readonly node: Node;
  readonly attribute: string;
}

/** What graphs and function bodies have in common when they are built. */
interface Contents {
  readonly list: NodeListInfo;
  readonly inputs: readonly { readonly name: string; readonly type: ValueInfo | null }[];
  readonly outputs: readonly string[];
  readonly initializers: GraphInfo['initializers'];
  readonly sparseInitializers: GraphInfo['sparseInitializers'];
}

/**
 * The main graph, a subgraph or a function body as linked nodes and values. A subgraph refers to the values
 * it captures as the very objects of the enclosing graph.
 */
export class Graph {
  /** The graph or function body as the file has it. */
  readonly info: NodeListInfo;
  readonly inputs: readonly Value[];
  readonly outputs: readonly Value[];
  /** In topological order. */
  readonly nodes: readonly Node[];
  private readonly values = new Map<string, Value>();

  private constructor(
    contents: Contents,
    /** Operator sets in force, version by domain. */
    readonly opsets: ReadonlyMap<string, number>,
    /** The node whose body this is; null for the main graph and for functions. */
    readonly owner: Owner | null,
    /** How messages call the graph. */
    readonly label: string,
    /** Whether this is the body of a model-local function. */
    readonly isFunction: boolean,
  ) {
    const { list } = contents;
    this.info = list;
    this.inputs = contents.inputs.map(({ name, type }) => {
      const value = this.declare(name, null);
      value.fed = true;
      value.declared = type;
      return value;
    });
    for (const tensor of contents.initializers) {
      // A graph input of the same name is the initializer's default being overridable.
      const value = this.values.get(tensor.name) ?? this.declare(tensor.name, null);
      value.initializer = tensor;
      value.fed = false;
    }
    for (const { values } of contents.sparseInitializers) this.declare(values.name, null);
    const nodes = list.nodes.map(info => this.declareNode(info));
    for (const node of nodes) this.connect(node);
    this.outputs = contents.outputs.map(name => {
      const value = this.resolve(name);
      if (value === null) {
        throw this.broken(`output '${name}' is computed by no node`, '', 'Export the model again.');
      }
      value.outputOf.push(this);
      return value;
    });
    for (const info of list.valueInfos) this.describe(info);
    this.nodes = topologicalOrder(nodes, this);
  }

  static ofGraph(
    info: GraphInfo,
    opsets: ReadonlyMap<string, number>,
    owner: Owner | null,
    label: string,
  ): Graph {
    const graph = new Graph(
      {
        list: info,
        inputs: info.inputs.map(type => ({ name: type.name, type })),
        outputs: info.outputs.map(({ name }) => name),
        initializers: info.initializers,
        sparseInitializers: info.sparseInitializers,
      },
      opsets,
      owner,
      label,
      false,
    );
    for (const output of info.outputs) graph.describe(output);
    return graph;
  }

  /** The body of a model-local function; attributes that it takes from its caller stay references. */
  static ofFunction(
    info: NodeListInfo & { readonly inputs: readonly string[]; readonly outputs: readonly string[] },
    opsets: ReadonlyMap<string, number>,
    label: string,
  ): Graph {
    const inputs = info.inputs.map(name => ({ name, type: null }));
    return new Graph(
      { list: info, inputs, outputs: info.outputs, initializers: [], sparseInitializers: [] },
      opsets,
      null,
      label,
      true,
    );
  }

  /** The main graph or the function body that this is part of. */
  get root(): Graph {
    return this.parent?.root ?? this;
  }

  /** The enclosing graph; null for the main graph and for functions. */
  get parent(): Graph | null {
    return this.owner?.node.graph ?? null;
  }

  /** The value of this name in this graph or, going outward, in the ones around it. */
  resolve(name: string): Value | null {
    return this.values.get(name) ?? this.parent?.resolve(name) ?? null;
  }

  /** This graph and all subgraphs, outer before inner. */
  *withSubgraphs(): Generator<Graph> {
    yield this;
    for (const node of this.nodes) {
      for (const body of node.subgraphs.values()) yield* body.withSubgraphs();
    }
  }

  private declareNode(info: NodeInfo): Node {
    const node = new Node(info, this);
    info.outputs.forEach((name, slot) => {
      if (name === '') {
        node.outputs.push(null);
        return;
      }
      const value = this.declare(name, node);
      value.producer = node;
      value.slot = slot;
      node.outputs.push(value);
    });
    return node;
  }

  private connect(node: Node): void {
    node.info.inputs.forEach((name, slot) => {
      if (name === '') {
        node.inputs.push(null);
        return;
      }
      const value = this.resolve(name);
      if (value === null) {
        throw this.broken(
          `${node.label} reads '${name}', which is no input, no initializer and no node's output`,
          node.name,
          'The model is incomplete. Export it again.',
        );
      }
      value.uses.push({ node, slot });
      node.inputs.push(value);
    });
    for (let slot = 0; slot < requiredInputs(node.type); slot++) {
      if (node.inputs[slot] != null) continue;
      throw this.broken(
        `${node.label} lacks input ${slot + 1}, which is not optional`,
        node.name,
        'No runtime takes this model. Export it again.',
      );
    }
    for (const attribute of node.info.attributes.values()) {
      if (attribute.type === 'graph') this.attach(node, attribute.name, attribute.value);
      if (attribute.type === 'graphs') {
        for (const [i, body] of attribute.value.entries()) this.attach(node, `${attribute.name}[${i}]`, body);
      }
    }
  }

  private attach(node: Node, attribute: string, info: GraphInfo): void {
    const label = `${this.label}, ${attribute} of ${node.label}`;
    node.subgraphs.set(attribute, Graph.ofGraph(info, this.opsets, { node, attribute }, label));
  }

  private declare(name: string, node: Node | null): Value {
    if (this.values.has(name)) {
      throw this.broken(
        `'${name}' is defined twice${node === null ? '' : `, the second time by ${node.label}`}`,
        node?.name ?? '',
        'ONNX names are defined once. Export the model again.',
      );
    }
    const value = new Value(name, this);
    this.values.set(name, value);
    return value;
  }

  private describe(info: ValueInfo): void {
    const value = this.values.get(info.name);
    if (value !== undefined) value.declared ??= info;
  }

  private broken(what: string, node: string, remedy: string): InputError {
    return new InputError(`${this.label}: ${what}`, node === '' ? { remedy } : { node, remedy });
  }
}
