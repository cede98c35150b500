import { buildModel } from '../../../rewriter/onnx/encode.js';
import { DataType } from '../../../rewriter/onnx/spec.js';

/** A model to open a session, and with it ONNX Runtime's device, where no part of the model would. */
export function identityModel(): Uint8Array<ArrayBuffer> {
  const value = (name: string) => ({ name, dataType: DataType.FLOAT, dims: [1] });
  return buildModel({
    irVersion: 8,
    opsetImports: { '': 17 },
    graph: {
      name: 'identity',
      inputs: [value('x')],
      outputs: [value('y')],
      nodes: [{ opType: 'Identity', inputs: ['x'], outputs: ['y'] }],
    },
  });
}
