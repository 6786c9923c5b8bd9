"""What several test files use. No test is here, and no test file imports another one."""
