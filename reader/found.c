/*
 * found.c - see found.h. Reads headers only.
 */
#include "found.h"

#include "../common/lg_layout.h"
#include "../viewer/find.h"
#include "../viewer/format.h"
#include "../viewer/json.h"
#include "../viewer/top_json.h"

static void write_source(struct lg_json *json, const struct lg_source *source);
static void write_text(struct lg_json *json, const char *key, const char *text, size_t size);
static const char *state_of(const struct lg_source *source);

void
lg_found_json(const char *dir, FILE *out)
{
    struct lg_json json = {.out = out};
    struct lg_sources sources = {0};
    struct lg_problems problems = {0};
    lg_find_all(dir, &sources, &problems);
    lg_json_object(&json, NULL);
    lg_json_array(&json, "segments");
    for (size_t i = 0; i < sources.count; i++) {
        write_source(&json, &sources.list[i]);
    }
    lg_json_end_array(&json);
    lg_top_json_errors(&json, problems.list, problems.count);
    lg_json_end_object(&json);
    lg_sources_free(&sources);
    lg_problems_free(&problems);
}

static void
write_source(struct lg_json *json, const struct lg_source *source)
{
    const struct lg_proc_info *proc = &source->geo.proc;
    char python[16];
    lg_json_object(json, NULL);
    lg_json_u64(json, "pid", source->pid > 0 ? (uint64_t)source->pid : proc->pid);
    lg_json_bool(json, "alive", source->life == LG_ALIVE);
    lg_json_string(json, "state", state_of(source));
    write_text(json, "app", proc->app, sizeof(proc->app));
    write_text(json, "server", proc->server, sizeof(proc->server));
    lg_json_u64(json, "worker", proc->worker_slot);
    lg_json_u64(json, "ppid", proc->ppid);
    lg_json_u64(json, "uid", proc->uid);
    lg_json_string(json, "python",
                   lg_format_python(proc->python_version_hex, python, sizeof(python)));
    write_text(json, "agent", proc->agent_version, sizeof(proc->agent_version));
    lg_json_ms(json, "started_unix_ms", proc->start_real_ns);
    lg_json_string(json, "file", source->path);
    lg_json_end_object(json);
}

static void
write_text(struct lg_json *json, const char *key, const char *text, size_t size)
{
    char clean[512];
    lg_text_clean(text, size, clean, sizeof(clean));
    lg_json_string(json, key, clean);
}

static const char *
state_of(const struct lg_source *source)
{
    switch (source->geo.header.state) {
    case LG_STATE_OFF:
        return "off";
    case LG_STATE_EXITING:
    case LG_STATE_EXITED:
        return source->life == LG_ALIVE ? "running" : "exited";
    default:
        return source->life == LG_ALIVE ? "running" : "killed";
    }
}
