//! Lines of the kernel's source that are changed.
//!
//! - So that an idle guest stays asleep: each was a timer that wakes the CPU to find that nothing has happened. A deferrable
//!   timer waits until the CPU is awake for another reason.
//! - So that the guest does not remember more files of a share than virtiofsd, which holds a descriptor for each, may open
//!   (`guest/kernel/max-unused`).
//! - So that the share's mounts take POSIX access lists as its root does, when virtiofsd has them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// One line of one file.
struct Edit {
    file: &'static str,
    from: &'static str,
    to: &'static str,
}

const EDITS: &[Edit] = &[
    // Once a second in each network namespace, used or not: whether packets have taken too much memory.
    Edit {
        file: "net/netfilter/ipvs/ip_vs_ctl.c",
        from: "INIT_DELAYED_WORK(&ipvs->defense_work, defense_work_handler);",
        to: "INIT_DEFERRABLE_WORK(&ipvs->defense_work, defense_work_handler);",
    },
    // Each 5 s for each card: whether it has stopped to send. One that sends nothing has not.
    Edit {
        file: "net/sched/sch_generic.c",
        from: "timer_setup(&dev->watchdog_timer, dev_watchdog, 0);",
        to: "timer_setup(&dev->watchdog_timer, dev_watchdog, TIMER_DEFERRABLE);",
    },
    // 2 s after anything has run: averages. Who reads them has them brought up to date before.
    Edit {
        file: "kernel/sched/psi.c",
        from: "INIT_DELAYED_WORK(&group->avgs_work, psi_avgs_work);",
        to: "INIT_DEFERRABLE_WORK(&group->avgs_work, psi_avgs_work);",
    },
    // Twice a second: whether memory is fragmented. Who needs large pages has it compacted then, and the setting
    // (`vm.compaction_proactiveness`) is still there.
    Edit {
        file: "mm/compaction.c",
        from: "static unsigned int __read_mostly sysctl_compaction_proactiveness = 20;",
        to: "static unsigned int __read_mostly sysctl_compaction_proactiveness;",
    },
    // Forgets some names of a file system that nobody uses, the oldest first.
    Edit {
        file: "include/linux/dcache.h",
        from: "extern void shrink_dcache_sb(struct super_block *);",
        to: "extern void shrink_dcache_sb(struct super_block *);\n\
             extern void shrink_dcache_sb_by(struct super_block *, unsigned long);",
    },
    Edit {
        file: "fs/dcache.c",
        from: "EXPORT_SYMBOL(shrink_dcache_sb);",
        to: r"EXPORT_SYMBOL(shrink_dcache_sb);

void shrink_dcache_sb_by(struct super_block *sb, unsigned long count)
{
	while (count) {
		unsigned long some = min(count, 1024UL);
		LIST_HEAD(dispose);

		list_lru_walk(&sb->s_dentry_lru, dentry_lru_isolate_shrink, &dispose, some);
		shrink_dentry_list(&dispose);
		count -= some;
	}
}",
    },
    Edit {
        file: "fs/fuse/fuse_i.h",
        from: "ssize_t __fuse_simple_request(struct mnt_idmap *idmap,",
        to: "void fuse_bound_unused(struct fuse_conn *fc, u32 opcode);\n\
             unsigned long virtio_fs_forgetting(struct fuse_conn *fc);\n\n\
             ssize_t __fuse_simple_request(struct mnt_idmap *idmap,",
    },
    // How many messages that a name is forgotten are on their way.
    Edit {
        file: "fs/fuse/virtio_fs.c",
        from: "static inline void virtio_fs_ctx_set_defaults(",
        to: r"unsigned long virtio_fs_forgetting(struct fuse_conn *fc)
{
	struct virtio_fs *fs = fc->iq.priv;

	return fc->iq.ops == &virtio_fs_fiq_ops ? READ_ONCE(fs->vqs[VQ_HIPRIO].in_flight) : 0;
}

static inline void virtio_fs_ctx_set_defaults(",
    },
    Edit {
        file: "fs/fuse/dev.c",
        from: "\tssize_t ret;\n\n\tif (args->force) {\n\t\tatomic_inc(&fc->num_waiting);",
        to: "\tssize_t ret;\n\n\tfuse_bound_unused(fc, args->opcode);\n\tif (args->force) {\n\
             \t\tatomic_inc(&fc->num_waiting);",
    },
    Edit {
        file: "fs/fuse/inode.c",
        from: "\tsb->s_xattr = parent_sb->s_xattr;\n",
        to: "\tsb->s_flags |= parent_sb->s_flags & SB_POSIXACL;\n\tsb->s_xattr = parent_sb->s_xattr;\n",
    },
    // Almost a second after any task has run: whether realtime tasks keep the others from running. Where there are none, they
    // do not; with the first one that comes the server begins.
    Edit {
        file: "kernel/sched/deadline.c",
        from: "if (!dl_se->dl_runtime || dl_se->dl_server_active)",
        to: "if (!dl_se->dl_runtime || dl_se->dl_server_active || !rq->rt.rt_nr_running)",
    },
    Edit {
        file: "kernel/sched/rt.c",
        from: "\tenqueue_rt_entity(rt_se, flags);\n\n\tif (!task_current(rq, p)",
        to: "\tenqueue_rt_entity(rt_se, flags);\n\n\tif (rq->cfs.h_nr_queued && cpu_online(cpu_of(rq)))\n\
             \t\tdl_server_start(&rq->fair_server);\n\n\tif (!task_current(rq, p)",
    },
    // One tick after an interrupt, at most once a second: its moment goes into the random numbers. That can wait until the CPU
    // is awake, which it is for whoever draws some.
    Edit {
        file: "drivers/char/random.c",
        from: ".mix = __TIMER_INITIALIZER(mix_interrupt_randomness, 0)",
        to: ".mix = __TIMER_INITIALIZER(mix_interrupt_randomness, TIMER_DEFERRABLE)",
    },
    // More and more seldom after the start, then once a minute: a new seed, and some for it from the host.
    Edit {
        file: "drivers/char/random.c",
        from: "static DECLARE_DELAYED_WORK(next_reseed, crng_reseed);",
        to: "static DECLARE_DEFERRABLE_WORK(next_reseed, crng_reseed);",
    },
    Edit {
        file: "drivers/char/random.c",
        from: r"/*
 * Interface for in-kernel drivers of true hardware RNGs.",
        to: r"struct deferrable_sleep {
	struct timer_list timer;
	struct task_struct *task;
};

static void end_deferrable_sleep(struct timer_list *timer)
{
	struct deferrable_sleep *sleep = from_timer(sleep, timer, timer);

	wake_up_process(sleep->task);
}

/* As schedule_timeout_interruptible, but an idle CPU is not woken for it. */
static void sleep_deferrable(unsigned long jiffies_to_sleep)
{
	struct deferrable_sleep sleep = { .task = current };

	timer_setup_on_stack(&sleep.timer, end_deferrable_sleep, TIMER_DEFERRABLE);
	set_current_state(TASK_INTERRUPTIBLE);
	mod_timer(&sleep.timer, jiffies + jiffies_to_sleep);
	schedule();
	del_timer_sync(&sleep.timer);
	destroy_timer_on_stack(&sleep.timer);
	__set_current_state(TASK_RUNNING);
}

/*
 * Interface for in-kernel drivers of true hardware RNGs.",
    },
    Edit {
        file: "drivers/char/random.c",
        from: "schedule_timeout_interruptible(crng_reseed_interval());",
        to: "sleep_deferrable(crng_reseed_interval());",
    },
    // Each 30 s: whether one of device mapper's buffers is old.
    Edit {
        file: "drivers/md/dm-bufio.c",
        from: "INIT_DELAYED_WORK(&dm_bufio_cleanup_old_work, work_fn);",
        to: "INIT_DEFERRABLE_WORK(&dm_bufio_cleanup_old_work, work_fn);",
    },
    // Once a minute: whether a tracked connection has ended unseen. Who looks one up sees it.
    Edit {
        file: "net/netfilter/nf_conntrack_core.c",
        from: "INIT_DELAYED_WORK(&gc_work->dwork, gc_worker);",
        to: "INIT_DEFERRABLE_WORK(&gc_work->dwork, gc_worker);",
    },
];

/// All that a kernel depends on.
pub(crate) fn text() -> String {
    EDITS.iter().flat_map(|edit| [edit.file, edit.from, edit.to]).collect()
}

/// Changes an unpacked source.
pub(crate) fn apply(source: &Path) -> Result<()> {
    EDITS.iter().try_for_each(|edit| edit.apply(source))
}

impl Edit {
    fn apply(&self, source: &Path) -> Result<()> {
        let path = source.join(self.file);
        let text = fs::read_to_string(&path);
        let text = text.with_context(|| format!("The kernel's source has no {}", path.display()))?;
        if text.matches(self.from).count() != 1 {
            bail!(
                "{} no longer has the line that is to change; look at it and mend `xtask/src/guest/edits.rs`: {}",
                path.display(),
                self.from
            );
        }
        fs::write(&path, text.replace(self.from, self.to)).context("Cannot write to the kernel's source")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EDIT: Edit = Edit { file: "a.c", from: "wake = 1;", to: "wake = 0;" };

    #[test]
    fn a_line_is_changed_and_the_others_stay() {
        let source = tempfile::tempdir().unwrap();
        fs::write(source.path().join("a.c"), "int wake;\nwake = 1;\n").unwrap();
        EDIT.apply(source.path()).unwrap();
        assert_eq!(fs::read_to_string(source.path().join("a.c")).unwrap(), "int wake;\nwake = 0;\n");
    }

    #[test]
    fn a_source_without_the_line_or_with_two_of_them_is_refused() {
        let source = tempfile::tempdir().unwrap();
        for text in ["int wake;\n", "wake = 1;\nwake = 1;\n"] {
            fs::write(source.path().join("a.c"), text).unwrap();
            let error = EDIT.apply(source.path()).unwrap_err().to_string();
            assert!(error.ends_with("mend `xtask/src/guest/edits.rs`: wake = 1;"), "{error}");
        }
    }
}
