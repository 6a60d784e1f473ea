def pytest_configure(config):
    config.addinivalue_line("markers", "kernels_ci: what the kernel builder runs for every build")
