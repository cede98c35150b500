import assert from 'node:assert/strict';
import onnxProto, { type onnx as proto } from 'onnx-proto';
import { InputError } from '../../../rewriter/errors.js';
import { MemorySource } from '../../../rewriter/onnx/byte-source.js';
import { concatenate } from '../../../rewriter/onnx/bytes.js';
import { decodeModel } from '../../../rewriter/onnx/decode.js';
import { buildModel, field } from '../../../rewriter/onnx/encode.js';
import { GraphField, ModelField } from '../../../rewriter/onnx/field-numbers.js';
import type { Sidecars } from '../../../rewriter/onnx/model-info.js';
import { DataType } from '../../../rewriter/onnx/spec.js';
import { readTensorData } from '../../../rewriter/onnx/tensor-data.js';

const { onnx } = onnxProto;

/** Reads the only initializer of a model. */
function read(tensor: proto.ITensorProto | Uint8Array, limit?: number): Uint8Array<ArrayBuffer> | null {
  const bytes = tensor instanceof Uint8Array ? tensor : onnx.TensorProto.encode(tensor).finish();
  const model = decodeModel(
    concatenate([
      onnx.ModelProto.encode({ irVersion: 8 }).finish(),
      ...field(ModelField.graph, field(GraphField.initializer, [bytes])),
    ]),
  );
  return readTensorData(model.graph.initializers[0]!, model, limit);
}

describe('readTensorData', () => {
  it('reads raw_data', () => {
    const rawData = new Uint8Array(Float32Array.of(1, -2).buffer);
    const bytes = read({ name: 'w', dataType: DataType.FLOAT, dims: [2], rawData });
    assert.deepEqual([...new Float32Array(bytes!.buffer)], [1, -2]);
  });

  it('reads float_data, packed', () => {
    const bytes = read({ dataType: DataType.FLOAT, dims: [3], floatData: [1, 2.5, -3] });
    assert.deepEqual([...new Float32Array(bytes!.buffer)], [1, 2.5, -3]);
  });

  it('reads complex numbers in float_data', () => {
    const bytes = read({ dataType: DataType.COMPLEX64, dims: [1], floatData: [3, 4] });
    assert.deepEqual([...new Float32Array(bytes!.buffer)], [3, 4]);
  });

  it('reads double_data', () => {
    const bytes = read({ dataType: DataType.DOUBLE, dims: [2], doubleData: [1 / 3, -1e300] });
    assert.deepEqual([...new Float64Array(bytes!.buffer)], [1 / 3, -1e300]);
  });

  it('reads int64_data without loss', () => {
    const low = { low: 1, high: -2147483648, unsigned: false };
    const bytes = read({ dataType: DataType.INT64, dims: [3], int64Data: [-1, 2 ** 40, low] });
    assert.deepEqual([...new BigInt64Array(bytes!.buffer)], [-1n, 2n ** 40n, -(2n ** 63n) + 1n]);
  });

  it('reads uint64_data of both widths', () => {
    const bytes = read({ dataType: DataType.UINT32, dims: [2], uint64Data: [7, 2 ** 32 - 1] });
    assert.deepEqual([...new Uint32Array(bytes!.buffer)], [7, 2 ** 32 - 1]);
  });

  it('reads int32_data of every width', () => {
    const cases: [DataType, number[], (bytes: Uint8Array<ArrayBuffer>) => Iterable<number>][] = [
      [DataType.INT32, [-5, 2 ** 31 - 1], ({ buffer }) => new Int32Array(buffer)],
      [DataType.INT16, [-5, 300], ({ buffer }) => new Int16Array(buffer)],
      [DataType.FLOAT16, [0x3c00, 0xfc00], ({ buffer }) => new Uint16Array(buffer)],
      [DataType.INT8, [-5, 100], ({ buffer }) => new Int8Array(buffer)],
      [DataType.BOOL, [1, 0], bytes => bytes],
    ];
    for (const [dataType, int32Data, view] of cases) {
      assert.deepEqual([...view(read({ dataType, dims: [2], int32Data })!)], int32Data, DataType[dataType]);
    }
  });

  it('reads 4-bit integers, two to a byte', () => {
    assert.deepEqual(
      [...read({ dataType: DataType.UINT4, dims: [3], int32Data: [0x21, 0x03] })!],
      [0x21, 0x03],
    );
  });

  it('reads elements that are not packed, in several places', () => {
    // dims [3], data_type FLOAT, and float_data as three single fields around the name.
    const single = (value: number) => [0x25, ...new Uint8Array(Float32Array.of(value).buffer)];
    const bytes = Uint8Array.of(0x08, 3, 0x10, 1, ...single(1), ...single(2), 0x42, 1, 0x77, ...single(3));
    assert.deepEqual([...new Float32Array(read(bytes)!.buffer)], [1, 2, 3]);
  });

  it('gives scalars and tensors without elements', () => {
    assert.equal(read({ dataType: DataType.FLOAT, dims: [], floatData: [1] })?.length, 4);
    assert.equal(read({ dataType: DataType.FLOAT, dims: [0, 5] })?.length, 0);
  });

  it('gives null for what is too long, for strings and for unknown types', () => {
    const rawData = new Uint8Array(64);
    assert.equal(read({ dataType: DataType.FLOAT, dims: [16], rawData }, 63), null);
    assert.equal(read({ dataType: DataType.FLOAT, dims: [16], rawData }, 64)?.length, 64);
    assert.equal(read({ dataType: DataType.STRING, dims: [1], stringData: [Uint8Array.of(65)] }), null);
    assert.equal(read({ dataType: 99, dims: [1], rawData }), null);
    assert.equal(read({ dataType: DataType.FLOAT, dims: [2 ** 40, 2 ** 40, 2 ** 40], rawData }), null);
  });

  it('refuses data that does not fit the shape', () => {
    const wrong: proto.ITensorProto[] = [
      { dataType: DataType.FLOAT, dims: [2], rawData: new Uint8Array(7) },
      { dataType: DataType.FLOAT, dims: [2], rawData: new Uint8Array(9) },
      { dataType: DataType.FLOAT, dims: [2], floatData: [1] },
      { dataType: DataType.FLOAT, dims: [2], floatData: [1, 2, 3] },
      { dataType: DataType.INT64, dims: [1], int64Data: [1, 2, 3] },
      { dataType: DataType.INT64, dims: [1] },
    ];
    for (const tensor of wrong) assert.throws(() => read({ name: 'w', ...tensor }), InputError);
  });

  describe('with external data', () => {
    const contents = Uint8Array.from({ length: 32 }, (_, i) => i);
    const sidecars: Sidecars = { open: () => new MemorySource(contents) };

    function readExternal(offset: number, length: number, given: Sidecars | null): Uint8Array | null {
      const external = { location: 'w.bin', offset, length };
      const bytes = buildModel({
        irVersion: 8,
        opsetImports: {},
        graph: {
          name: 'g',
          nodes: [],
          inputs: [],
          outputs: [],
          initializers: [{ name: 'w', dataType: DataType.UINT8, dims: [4], external }],
        },
      });
      const model = decodeModel(bytes, given === null ? {} : { sidecars: given });
      return readTensorData(model.graph.initializers[0]!, model);
    }

    it('reads its range of the file', () => {
      assert.deepEqual([...readExternal(8, 4, sidecars)!], [8, 9, 10, 11]);
    });

    it('refuses lengths that do not fit the shape or the file, and missing files', () => {
      assert.throws(() => readExternal(8, 5, sidecars), InputError);
      assert.throws(() => readExternal(30, 4, sidecars), InputError);
      assert.throws(() => readExternal(8, 4, null), InputError);
    });
  });
});
