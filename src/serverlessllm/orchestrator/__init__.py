# SPDX-License-Identifier: Apache-2.0
"""The front: OpenAI API, admission, placement, holding, proxying, scaling."""
