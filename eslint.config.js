import { defineConfig, globalIgnores } from 'eslint/config';
import tseslint from 'typescript-eslint';

export default defineConfig(
  globalIgnores(['dist/', 'build/', 'coverage/']),
  {
    files: ['**/*.ts'],
    extends: [tseslint.configs.strictTypeChecked],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    linterOptions: { reportUnusedDisableDirectives: 'error' },
    rules: {
      // Numbers, bigints and booleans read well in messages; objects, null and undefined do not.
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true, allowBoolean: true }],
      // `() => stop()` as a handler is shorter than a block and as clear.
      '@typescript-eslint/no-confusing-void-expression': ['error', { ignoreArrowShorthand: true }],
      // `for (;;)` and `while (true)` are how a loop with its exit in the middle is written.
      '@typescript-eslint/no-unnecessary-condition': [
        'error',
        { allowConstantLoopConditions: 'only-allowed-literals' },
      ],
      // An implementation of a promise-returning interface may have nothing to wait for.
      '@typescript-eslint/require-await': 'off',
      // Every union is handled whole; a new member must not fall through.
      '@typescript-eslint/switch-exhaustiveness-check': ['error', { considerDefaultExhaustiveForUnions: true }],
      // Generated API classes are shapes of data; nobody calls their constructors.
      '@typescript-eslint/no-unsafe-class-instance-assignment': 'off',
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/no-import-type-side-effects': 'error',
      '@typescript-eslint/prefer-readonly': 'error',
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_', ignoreRestSiblings: true }],
      eqeqeq: 'error',
      'no-console': 'error',
    },
  },
  {
    files: ['test/**/*.ts'],
    rules: {
      // expect(mock.method) never calls the method.
      '@typescript-eslint/unbound-method': 'off',
      // Fakes have bodies that do nothing on purpose.
      '@typescript-eslint/no-empty-function': 'off',
      // A missing element fails the test with a message of its own.
      '@typescript-eslint/no-non-null-assertion': 'off',
      // One polled condition, many kinds of falsy answers.
      '@typescript-eslint/no-invalid-void-type': 'off',
    },
  },
);
