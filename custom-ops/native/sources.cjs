// Source files of the operator library, for binding.gyp: one cpu.cc per operator that has one.
const { existsSync, readdirSync } = require('node:fs');

const operators = readdirSync('..').map(name => `../${name}/cpu.cc`);
const simd = readdirSync('simd').filter(name => name.endsWith('.cc'));
console.log(
  [
    'operators.cc',
    'operator_list.cc',
    ...simd.map(name => `simd/${name}`),
    ...operators.filter(existsSync),
  ].join('\n'),
);
