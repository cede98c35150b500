import { scopeOf } from './graph/scope.js';
import { deadNodes } from './graph/slices.js';
import type { Value } from './graph/value.js';
import type { Fusion, MovedValue } from './patterns/source-form.js';
import { type Laboratory, PLAIN } from './probe/laboratory.js';
import type { FusionOperand, FusionSite, MaskKind } from './site.js';
import { dtypeOf, pathOf, refusalsOfPlace } from './site-facts.js';

/**
 * The site of a fusion that a form found.
 * @param form name of the form
 */
export function describeFusion(form: string, fusion: Fusion, laboratory: Laboratory): FusionSite {
  const { named, output, causal, keyMask, heads } = fusion;
  const scope = named.graph;
  const placed = ({ value, moves = [] }: MovedValue): FusionOperand => {
    const { dataType } = laboratory.trials[0]!.probe(PLAIN).sample(value);
    return { value: value.name, dataType, moves };
  };
  const read = Object.values(fusion.operands).map(({ value }) => value);
  if (keyMask !== null) read.push(scope.resolve(keyMask.value)!);
  const nodes = deadNodes([output.value], new Set<Value>(read));
  const placedOutput = { ...placed(output), axes: output.axes };
  const dtype = dtypeOf(placedOutput.dataType);
  const reasons = [...fusion.refusals, ...refusalsOfPlace(fusion, nodes, fusion.interior, dtype)];
  return {
    computation: fusion.computation,
    id: output.value.name,
    scope: scopeOf(named),
    graphPath: pathOf(scope),
    pattern: form,
    nodes,
    operands: Object.fromEntries(
      Object.entries(fusion.operands).map(([name, operand]) => [name, placed(operand)]),
    ),
    output: placedOutput,
    parameters: fusion.parameters,
    queryHeads: heads?.queryHeads ?? null,
    kvHeads: heads?.kvHeads ?? null,
    headDim: heads?.headDim ?? null,
    scale: heads?.scale ?? null,
    mask: maskOf(causal, keyMask !== null),
    causal,
    keyMask,
    alignment: 'equal',
    emptyRow: fusion.emptyRow,
    past: false,
    kind: fusion.kind,
    dtype,
    replaceable: reasons.length === 0,
    reason: reasons.length === 0 ? null : reasons.join('; '),
  };
}

function maskOf(causal: boolean, padding: boolean): MaskKind {
  if (causal) return padding ? 'causal+padding' : 'causal';
  return padding ? 'key-padding' : 'none';
}
