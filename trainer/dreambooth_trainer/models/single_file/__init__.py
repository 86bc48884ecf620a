"""Models in one file, as web UIs keep them: weights alone, under the names of the original code.

Their configuration comes with the project.
"""
