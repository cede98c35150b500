import assert from 'node:assert/strict';
import { join } from 'node:path';
import { commandLine } from '../../cli/environment.js';

describe('the command line in reports', () => {
  const { argv } = process;
  afterEach(() => {
    process.argv = argv;
  });

  it('tells paths from the current folder, others by their names, and quotes what a shell would split', () => {
    const here = join(process.cwd(), 'models', 'a.onnx');
    const elsewhere = join(process.cwd(), '..', 'secret', 'it is.txt');
    process.argv = ['node', 'main.js', 'tune', here, '--data', elsewhere, `--cache=${here}`, '--sites', 'a*'];
    assert.equal(
      commandLine(),
      "onnx-rewrite tune models/a.onnx --data 'it is.txt' --cache=models/a.onnx --sites 'a*'",
    );
  });
});
