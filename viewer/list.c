/*
 * list.c - workers, one a line; see list.h. Reads headers and anchors only.
 */
#include "list.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "../common/lg_clock.h"
#include "format.h"
#include "json.h"
#include "top_json.h"

struct line {                           /* of one worker, as shown */
    const char *state;
    uint64_t up_ns;
    char app[256];
    char agent[64];
    int pid;
};

static void look(const struct lg_source *source, struct line *out);

void
lg_list_print(const struct lg_sources *sources, FILE *out)
{
    size_t width = 3;
    struct line line;
    for (size_t i = 0; i < sources->count; i++) {
        look(&sources->list[i], &line);
        size_t columns = lg_format_columns(line.app);
        width = columns > width && columns <= 48 ? columns : width;
    }
    fprintf(out, "%8s  %-6s  %-11s  %-*s  %-9s  %s\n", "PID", "STATE", "UP", (int)width, "APP",
            "AGENT", "FILE");
    for (size_t i = 0; i < sources->count; i++) {
        char up[LG_TEXT];
        look(&sources->list[i], &line);
        fprintf(out, "%8d  %-6s  %-11s  %-*s  %-9s  %s\n", line.pid, line.state,
                lg_format_uptime(line.up_ns, up, sizeof(up)), (int)width,
                line.app[0] != '\0' ? line.app : "-", line.agent[0] != '\0' ? line.agent : "-",
                sources->list[i].path);
    }
}

void
lg_list_json(const struct lg_sources *sources, const struct lg_problems *problems, FILE *out)
{
    struct lg_json json = {.out = out};
    lg_json_object(&json, NULL);
    lg_top_json_head(&json);
    lg_json_array(&json, "workers");
    for (size_t i = 0; i < sources->count; i++) {
        const struct lg_source *source = &sources->list[i];
        struct line line;
        look(source, &line);
        lg_json_object(&json, NULL);
        lg_json_u64(&json, "pid", (uint64_t)line.pid);
        lg_json_string(&json, "state", line.state);
        lg_json_ms(&json, "up_ms", line.up_ns);
        lg_json_text_or_null(&json, "app", line.app);
        lg_json_text_or_null(&json, "agent", line.agent);
        lg_json_u64(&json, "ppid", source->geo.proc.ppid);
        lg_json_u64(&json, "uid", source->geo.proc.uid);
        lg_json_string(&json, "file", source->path);
        lg_json_end_object(&json);
    }
    lg_json_end_array(&json);
    lg_top_json_errors(&json, problems->list, problems->count);
    lg_json_end_object(&json);
    fputc('\n', out);
}

static void
look(const struct lg_source *source, struct line *out)
{
    const struct lg_proc_info *proc = &source->geo.proc;
    const struct lg_extent *x = &source->geo.section[LG_SEC_ANCHOR];
    struct lg_anchor anchor;
    uint32_t state = source->geo.header.state;
    *out = (struct line){.up_ns = LG_NONE};
    out->pid = source->pid != 0 ? (int)source->pid : (int)proc->pid;
    lg_text_clean(proc->app[0] != '\0' ? proc->app : proc->argv,
                  proc->app[0] != '\0' ? sizeof(proc->app) : sizeof(proc->argv), out->app,
                  sizeof(out->app));
    lg_text_clean(proc->agent_version, sizeof(proc->agent_version), out->agent, sizeof(out->agent));
    uint64_t end_ns = lg_now_ns();
    out->state = state == LG_STATE_OFF ? "off" : "live";
    if (source->life != LG_ALIVE) {
        out->state = state == LG_STATE_EXITED || state == LG_STATE_EXITING ? "exited" : "dead";
        end_ns = 0;
        if (x->count > 0 && x->known >= sizeof(anchor) &&
            pread(source->fd, &anchor, sizeof(anchor), (off_t)x->offset) ==
                (ssize_t)sizeof(anchor)) {
            end_ns = anchor.mono_ns;
        }
    }
    if (end_ns >= proc->start_mono_ns && end_ns != 0) {
        out->up_ns = end_ns - proc->start_mono_ns;
    }
}
