import { OperatorRunner } from '../../../../custom-ops/runtime/web/node.js';
import { NO_DEVICE, testDevice } from './test-device.js';

/** Opens a runner of kernels around the tests of the enclosing suite, or skips them, saying why; gives the runner. */
export function testRunner(): () => OperatorRunner {
  let runner: OperatorRunner | undefined;

  before(async function () {
    const device = await testDevice();
    if (!device) {
      console.log(`      ${NO_DEVICE}`);
      return this.skip();
    }
    runner = new OperatorRunner(device);
  });

  after(() => {
    runner?.destroy();
    runner?.device.destroy();
  });

  return () => runner!;
}
