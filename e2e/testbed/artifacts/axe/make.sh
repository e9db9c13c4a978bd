# The checks of axe-core for accessibility, one script for the browser.
pip_wheel
unzip_one 'axe_playwright_python/axe.min.js' wheel/*.whl >"$OUT/axe.min.js"
