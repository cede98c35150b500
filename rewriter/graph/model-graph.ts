import { InputError } from '../errors.js';
import type { ModelInfo } from '../onnx/model-info.js';
import { Constants } from './constants.js';
import { Graph } from './graph.js';
import { NameAuthority } from './names.js';

/** Newest version of the default operator set whose operators are known here (ONNX 1.23). */
const NEWEST_OPSET = 28;

/** A whole model as linked graphs. */
export class ModelGraph {
  readonly main: Graph;
  /** Bodies of model-local functions, by `domain::name` and, where it has one, `:overload`. */
  readonly functions: ReadonlyMap<string, Graph>;
  readonly constants: Constants;
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
    const opset = model.opsetImports.get('');
    this.warnings =
      opset !== undefined && opset > NEWEST_OPSET
        ? [
            `the model uses opset ${opset}; operators are known up to opset ${NEWEST_OPSET}, ` +
              'newer ones are taken as unknown and may hide attention',
          ]
        : [];
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
