import { InputError } from '../errors.js';
import type { ModelInfo } from '../onnx/model-info.js';
import { Constants } from './constants.js';
import { Graph } from './graph.js';
import { NameAuthority } from './names.js';
import type { Node } from './node.js';

/** Newest version of the default operator set whose operators are known here (ONNX 1.23). */
const NEWEST_OPSET = 28;

/** A whole model as linked graphs. */
export class ModelGraph {
  readonly main: Graph;
  /** Bodies of model-local functions, by `domain::name` and, where it has one, `:overload`. */
  readonly functions: ReadonlyMap<string, Graph>;
  readonly constants: Constants;
  private readonly calls = new Map<Graph, Node>();
  private authority: NameAuthority | null = null;
  /** What a user should know about the model as a whole. */
  readonly warnings: readonly string[];

  /**
   * @throws InputError naming the node and the remedy when the graph is empty, has a cycle, reads a value that
   * nothing defines, or defines a name twice
   */
  constructor(readonly model: ModelInfo) {
    const file = model.file ?? 'model';
    try {
      if (model.graph.nodes.length === 0) {
        throw new InputError(`${file}: the graph is empty`, { remedy: 'Export the model again.' });
      }
      this.main = Graph.ofGraph(model.graph, model.opsetImports, null, file);
      this.functions = new Map(
        model.functions.map(body => {
          const name = functionKey(body.domain, body.name, body.overload);
          return [name, Graph.ofFunction(body, body.opsetImports, `${file}, function ${name}`)];
        }),
      );
    } catch (error) {
      if (!(error instanceof InputError) || model.file === null) throw error;
      throw new InputError(error.message, { ...error.details, file: model.file }, { cause: error });
    }
    this.constants = new Constants(model);
    for (const graph of [this.main, ...this.functions.values()].flatMap(root => [...root.withSubgraphs()])) {
      for (const node of graph.nodes) {
        const body = this.bodyOf(node);
        if (body !== null && !this.calls.has(body)) this.calls.set(body, node);
      }
    }
    const opset = model.opsetImports.get('');
    this.warnings =
      opset !== undefined && opset > NEWEST_OPSET
        ? [
            `the model uses opset ${opset}; operators are known up to opset ${NEWEST_OPSET}, ` +
              'newer ones are taken as unknown and may hide attention',
          ]
        : [];
  }

  /** Body of the model-local function that a node calls; null for operators. */
  bodyOf({ info }: Node): Graph | null {
    return this.functions.get(functionKey(info.domain, info.opType, info.overload)) ?? null;
  }

  /** The first call of the function whose body, or whose body's subgraph, this is; null for other graphs. */
  callOf(graph: Graph): Node | null {
    return this.calls.get(graph.root) ?? null;
  }

  /** Hands out names that are still free. */
  get names(): NameAuthority {
    this.authority ??= new NameAuthority(this.model);
    return this.authority;
  }
}

/** Key of a model-local function. */
export function functionKey(domain: string, name: string, overload: string): string {
  return `${domain}::${name}${overload === '' ? '' : `:${overload}`}`;
}
