import { InferenceSession, Tensor } from 'onnxruntime-node';
import type { TensorValue } from '../../cli/data/tensor.js';

/** One model in onnxruntime-node, on one thread so that sums are made in one order. */
export class FixtureSession {
  private constructor(private readonly session: InferenceSession) {}

  static async open(model: Uint8Array): Promise<FixtureSession> {
    const options = { logSeverityLevel: 4, intraOpNumThreads: 1 } as const;
    return new FixtureSession(await InferenceSession.create(model, options));
  }

  /** All outputs; values for inputs that the model does not have are left out. */
  async run(inputs: ReadonlyMap<string, TensorValue>): Promise<ReadonlyMap<string, TensorValue>> {
    const feeds = [...inputs]
      .filter(([name]) => this.session.inputNames.includes(name))
      .map(([name, { type, data, dims }]) => [name, new Tensor(type, data, dims)] as const);
    const results = await this.session.run(Object.fromEntries(feeds));
    return new Map(
      Object.entries(results).map(([name, { type, data, dims }]) => [
        name,
        { type, data, dims } as TensorValue,
      ]),
    );
  }

  release(): Promise<void> {
    return this.session.release();
  }
}
