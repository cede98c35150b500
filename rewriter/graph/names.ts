import type { GraphInfo, ModelInfo, NodeListInfo } from '../onnx/model-info.js';

/** Hands out names that no value and no node of the model has, in any graph, subgraph or function. */
export class NameAuthority {
  private readonly taken = new Set<string>();

  constructor(model: ModelInfo) {
    this.takeGraph(model.graph);
    for (const body of model.functions) {
      for (const name of [...body.inputs, ...body.outputs]) this.taken.add(name);
      this.takeNodes(body);
    }
  }

  /** `base` itself where it is free, else `base` with the first free number behind an underscore. */
  fresh(base: string): string {
    let name = base;
    for (let i = 1; this.taken.has(name); i++) name = `${base}_${i}`;
    this.taken.add(name);
    return name;
  }

  private takeGraph(graph: GraphInfo): void {
    for (const { name } of [...graph.inputs, ...graph.outputs, ...graph.initializers]) this.taken.add(name);
    for (const { values } of graph.sparseInitializers) this.taken.add(values.name);
    this.takeNodes(graph);
  }

  private takeNodes(list: NodeListInfo): void {
    for (const { name } of list.valueInfos) this.taken.add(name);
    for (const node of list.nodes) {
      for (const name of [node.name, ...node.inputs, ...node.outputs]) this.taken.add(name);
      for (const attribute of node.attributes.values()) {
        if (attribute.type === 'graph') this.takeGraph(attribute.value);
        if (attribute.type === 'graphs') for (const graph of attribute.value) this.takeGraph(graph);
      }
    }
  }
}
