/*
 * top_json.h - the JSON of loopguard-top: names are the contract.
 *
 * docs/loopguard-top.schema.json describes it; a test holds the two together.
 * Units stand in the names. What is not known is null, never 0.
 */
#ifndef LG_TOP_JSON_H
#define LG_TOP_JSON_H

#include <stdbool.h>
#include <stdio.h>

#include "json.h"
#include "model.h"

#define LG_TOP_SCHEMA "loopguard-top/1"

/* One object on one line, with the newline. */
void lg_top_json(struct lg_top *top, const struct lg_view *view, bool events, FILE *out);

/* Parts that --list and loopguard-dump write, too. */
void lg_top_json_head(struct lg_json *json);
void lg_top_json_errors(struct lg_json *json, const struct lg_problem *list, size_t count);
void lg_top_json_worker(struct lg_json *json, struct lg_top *top, size_t worker,
                        const struct lg_view *view, bool events);
/* Frames, innermost first; null without any. `stack` may be NULL. */
void lg_top_json_stack(struct lg_json *json, const char *key, const struct lg_stack_view *stack);

#endif
