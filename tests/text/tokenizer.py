"""A tokenizer of letters, with what dsenv asks of one of `transformers`."""


class Letters:
    """Tokens 3 to 28 are the letters a to z.

    Args:
        closes: it puts the end of a text behind each, as some do.
    """

    bos_token_id, eos_token_id, eos_token, pad_token_id = 1, 2, "</s>", None

    def __init__(self, closes=False):
        self.closes = closes

    def ids(self, text):
        return [ord(letter) - ord("a") + 3 for letter in text]

    def __call__(self, text, add_special_tokens=True):
        tokens = self.ids(text)
        if add_special_tokens:
            tokens = [self.bos_token_id, *tokens] + [self.eos_token_id] * self.closes
        return {"input_ids": tokens}
