{
  'target_defaults': {
    'cflags!': ['-fno-exceptions'],
    'cflags_cc!': ['-fno-exceptions', '-fno-rtti'],
    'cflags_cc': [
      '-std=c++17', '-O3', '-fvisibility=hidden', '-ffp-contract=fast', '-fno-math-errno', '-Wall', '-Wextra',
    ],
    'xcode_settings': {
      'GCC_ENABLE_CPP_EXCEPTIONS': 'YES',
      'CLANG_CXX_LANGUAGE_STANDARD': 'c++17',
      'GCC_OPTIMIZATION_LEVEL': '3',
      'GCC_SYMBOLS_PRIVATE_EXTERN': 'YES',
      'OTHER_CPLUSPLUSFLAGS': ['-ffp-contract=fast', '-fno-math-errno'],
    },
    'libraries': ['-ldl', '-lpthread'],
  },
  'targets': [
    {
      # The operators, for every ONNX Runtime: exports RegisterCustomOps.
      'target_name': 'onnxrewrite_ops',
      'type': 'shared_library',
      'product_dir': '<(PRODUCT_DIR)',
      'product_prefix': 'lib',
      'cflags': ['-fPIC'],
      'sources': ['<!@(node sources.cjs)'],
    },
    {
      # Inference sessions for Node.
      'target_name': 'onnxrewrite',
      'sources': ['addon.cc'],
    },
  ],
}
