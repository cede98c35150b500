import { scopeOf } from './graph/scope.js';
import { deadNodes } from './graph/slices.js';
import type { Value } from './graph/value.js';
import type { FormOperand, Fusion, MovedValue } from './patterns/source-form.js';
import { type Laboratory, PLAIN } from './probe/laboratory.js';
import type { FusionInput, FusionOperand, FusionSite, MaskKind } from './site.js';
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
  const input = (operand: FormOperand): FusionInput => {
    if ('parts' in operand) return { parts: operand.parts.map(placed), moves: operand.moves };
    return 'sizesOf' in operand ? { ...operand, sizesOf: operand.sizesOf.name } : placed(operand);
  };
  const further = mapped(fusion.furtherOutputs ?? {}, parts => parts.map(placed));
  const computed = Object.values(fusion.furtherOutputs ?? {}).flatMap(parts =>
    parts.map(({ value }) => value),
  );
  const read = Object.values(fusion.operands).flatMap(valuesOf);
  if (keyMask !== null) read.push(scope.resolve(keyMask.value)!);
  const nodes = deadNodes([output.value, ...computed], new Set<Value>(read));
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
    operands: mapped(fusion.operands, input),
    output: placedOutput,
    furtherOutputs: further,
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

function valuesOf(operand: FormOperand): readonly Value[] {
  if ('parts' in operand) return operand.parts.map(({ value }) => value);
  return ['sizesOf' in operand ? operand.sizesOf : operand.value];
}

function mapped<T, U>(record: Readonly<Record<string, T>>, map: (value: T) => U): Record<string, U> {
  return Object.fromEntries(Object.entries(record).map(([name, value]) => [name, map(value)]));
}

function maskOf(causal: boolean, padding: boolean): MaskKind {
  if (causal) return padding ? 'causal+padding' : 'causal';
  return padding ? 'key-padding' : 'none';
}
