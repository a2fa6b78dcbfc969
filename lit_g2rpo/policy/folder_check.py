"""Checks that the tokenizer, template, image processor and model of a checkpoint belong together."""

from typing import Any

from jinja2 import TemplateError

from lit_g2rpo.errors import UserError
from lit_g2rpo.policy.families.family import Family
from lit_g2rpo.policy.opening import opened_text
from lit_g2rpo.registry import one_line


def check_folder(path: str, processor: Any, model: Any, family: Family) -> None:
    """Refuse a checkpoint whose files belong to different models.

    Args:
        path: ``model.policy.path``, for messages.
        processor: its processor, with the image areas that will be used.
        model: its model.

    Raises:
        UserError: if they do not belong together.
    """
    where = f"model.policy.path '{path}'"
    if not processor.chat_template:
        raise UserError(f"{where} has no chat template; add the chat_template.jinja of the model it was made from")
    content = [{"type": "image"}, {"type": "text", "text": "."}]
    try:
        opened_text(processor)
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    except TemplateError as error:
        raise UserError(
            f"{where}: its chat template cannot be read ({one_line(error)}); copy the file again"
        ) from error
    if prompt.count(processor.image_token) != 1:
        raise UserError(
            f"{where}: its chat template writes {prompt.count(processor.image_token)} x {processor.image_token} for an "
            "image; take the chat_template.jinja of the model it was made from"
        )
    config, images, sizes = model.config, processor.image_processor, family.image_sizes(model.config)
    pairs = {
        "patch_size": (images.patch_size, sizes.patch),
        "merge_size": (images.merge_size, sizes.merge),
        "patch_size of videos": (processor.video_processor.patch_size, sizes.patch),
        "merge_size of videos": (processor.video_processor.merge_size, sizes.merge),
        "the id of the image token": (processor.image_token_id, config.image_token_id),
    }
    for name, (own, of_model) in pairs.items():
        if own != of_model:
            raise UserError(
                f"{where}: {name} is {own} in the processor's files and {of_model} in config.json; take all files from "
                "one checkpoint"
            )
    largest, rows = max(processor.tokenizer.get_vocab().values()), config.get_text_config().vocab_size
    if largest >= rows:
        raise UserError(
            f"{where}: its tokenizer has a token of id {largest}, but the model has {rows} embeddings; take all files "
            "from one checkpoint"
        )
    least, longest = max(images.size["shortest_edge"], (sizes.patch * sizes.merge) ** 2), images.size["longest_edge"]
    if least > longest:
        raise UserError(
            f"model.policy.max_pixels is {longest}, but an image has at least {least} pixels; give more, or less for "
            "model.policy.min_pixels"
        )
