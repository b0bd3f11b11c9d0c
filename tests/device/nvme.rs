//! The NVMe controller of the model, command by command: what it refuses, and how.

use spapr_iommu::addr::Iova;
use spapr_iommu::device::{Bar, Device, Endian, Interrupt, InterruptKind};
use spapr_iommu::dma::{Buffer, Dma, DmaMask};
use spapr_iommu::model::pci::DeviceFault;
use spapr_iommu::model::{Model, Nvme};
use spapr_iommu::permission::Permission;
use spapr_iommu::{Group, PciAddress};
use std::sync::Arc;
use std::time::Duration;

const ADDRESS: &str = "0000:00:00.0";
const CC: u64 = 0x14;
const CSTS: u64 = 0x1c;
const ENABLED: u32 = 0x46_0001;
const ENTRIES: u16 = 4;
const PAGE: usize = 4096;

/// A pair of rings of four entries, driven by hand.
struct Ring {
    id: u16,
    commands: Buffer<[u32; 16]>,
    completions: Buffer<[u32; 4]>,
    tail: u16,
    head: u16,
    phase: u32,
}

impl Ring {
    fn new(dma: &Dma, id: u16) -> Self {
        let commands = dma.buffer(1024, Permission::Read).unwrap();
        let completions = dma.buffer(1024, Permission::ReadWrite).unwrap();
        Self { id, commands, completions, tail: 0, head: 0, phase: 1 }
    }
}

/// A command: opcode, namespace, bus addresses of data, and dwords from 10 on.
#[derive(Clone, Copy, Default)]
struct Command {
    opcode: u32,
    namespace: u32,
    prp: [u64; 2],
    dwords: [u32; 4],
}

fn command(opcode: u32, namespace: u32, dwords: [u32; 4]) -> Command {
    Command { opcode, namespace, dwords, ..Command::default() }
}

/// A completion: status type and code, and the result.
type Answer = ((u32, u32), u32);
const SUCCESS: Answer = ((0, 0), 0);

struct Rig {
    bar: Bar,
    device: Device,
    admin: Ring,
    io: Ring,
    /// Eight pages for data.
    data: Buffer<[u8; PAGE]>,
    dma: Dma,
    model: Arc<Model>,
    next: u16,
}

impl Rig {
    /// An enabled controller without I/O queues.
    fn new(nvme: Nvme) -> Self {
        let model = Model::new("powernv9-64k".parse().unwrap()).panic_on_violation();
        let model = Arc::new(model.with_device(Group(0), nvme).unwrap());
        let dma = Dma::new(model.clone());
        let device = dma.open(ADDRESS.parse().unwrap(), DmaMask::ALL).unwrap();
        let bar = device.bar(0, Endian::Little).unwrap();
        let (admin, io) = (Ring::new(&dma, 0), Ring::new(&dma, 1));
        let data = dma.buffer(8, Permission::ReadWrite).unwrap();
        device.start_dma().unwrap();
        let rig = Self { bar, device, admin, io, data, dma, model, next: 0 };
        rig.enable();
        rig
    }

    fn with_queues(nvme: Nvme) -> Self {
        let mut rig = Self::new(nvme);
        rig.create_queues();
        rig
    }

    fn create_queues(&mut self) {
        let (commands, completions) = (self.io.commands.iova().0, self.io.completions.iova().0);
        let size = u32::from(ENTRIES - 1) << 16 | 1;
        for (opcode, dword, at) in [(5, 3, completions), (1, 1 << 16 | 1, commands)] {
            let create = Command { prp: [at, 0], ..command(opcode, 0, [size, dword, 0, 0]) };
            assert_eq!(self.admin(create), SUCCESS);
        }
    }

    fn enable(&self) {
        let last = u32::from(ENTRIES - 1);
        self.bar.write(0x24, last << 16 | last).unwrap();
        self.bar.write(0x28, self.admin.commands.iova().0).unwrap();
        self.bar.write(0x30, self.admin.completions.iova().0).unwrap();
        self.bar.write(CC, ENABLED).unwrap();
        assert_eq!(self.bar.read::<u32>(CSTS), Ok(1));
    }

    fn page(&self, number: u64) -> u64 {
        self.data.iova().0 + number * PAGE as u64
    }

    /// Puts a command into a ring, and returns its identifier.
    fn submit(&mut self, admin: bool, command: Command) -> u16 {
        let ring = if admin { &mut self.admin } else { &mut self.io };
        let mut entry = [0; 16];
        self.next += 1;
        (entry[0], entry[1]) = (command.opcode | u32::from(self.next) << 16, command.namespace);
        for (at, prp) in [(6, command.prp[0]), (8, command.prp[1])] {
            (entry[at], entry[at + 1]) = (prp as u32, (prp >> 32) as u32);
        }
        entry[10..14].copy_from_slice(&command.dwords);
        ring.commands.write(ring.tail.into(), entry).unwrap();
        ring.tail = (ring.tail + 1) % ENTRIES;
        self.bar.write(0x1000 + 8 * u64::from(ring.id), u32::from(ring.tail)).unwrap();
        self.next
    }

    /// Takes a completion, if there is one: its command, type and code, and result.
    fn take(&mut self, admin: bool) -> Option<(u16, Answer)> {
        let ring = if admin { &mut self.admin } else { &mut self.io };
        let [result, _, from, last] = ring.completions.read(ring.head.into()).unwrap();
        if last >> 16 & 1 != ring.phase {
            return None;
        }
        assert_eq!(from >> 16, u32::from(ring.id));
        ring.head = (ring.head + 1) % ENTRIES;
        ring.phase ^= u32::from(ring.head == 0);
        let at = 0x1000 + 8 * u64::from(ring.id) + 4;
        self.bar.write(at, u32::from(ring.head)).unwrap();
        Some((last as u16, ((last >> 25 & 7, last >> 17 & 0xff), result)))
    }

    fn run(&mut self, admin: bool, command: Command) -> Answer {
        let id = self.submit(admin, command);
        let (answered, answer) = self.take(admin).expect("a command is carried out in its doorbell's write");
        assert_eq!(answered, id);
        answer
    }

    fn admin(&mut self, command: Command) -> Answer {
        self.run(true, command)
    }

    fn io(&mut self, command: Command) -> Answer {
        self.run(false, command)
    }

    fn bytes(&self, page: usize, len: usize) -> Vec<u8> {
        self.data.read(page).unwrap()[..len].to_vec()
    }
}

fn disk() -> Nvme {
    Nvme::new(1 << 20)
}

#[test]
fn the_controller_identifies_itself_and_its_namespace() {
    let mut rig = Rig::new(disk().with_block_size(4096).with_serial("serial-7"));
    let at = rig.page(0);
    let mut identify = |namespace, what| {
        let answer = rig.admin(Command { prp: [at, 0], ..command(6, namespace, [what, 0, 0, 0]) });
        (answer.0, rig.bytes(0, PAGE))
    };
    let (status, controller) = identify(0, 1);
    assert_eq!(
        (status, &controller[0..4], &controller[4..24]),
        ((0, 0), &[0x36, 0x1b, 0xf4, 0x1a][..], &b"serial-7            "[..])
    );
    assert_eq!((controller[77], controller[512], controller[513], controller[516]), (7, 0x66, 0x44, 1));
    let (status, namespace) = identify(1, 0);
    assert_eq!(
        (status, &namespace[0..9], namespace[26], &namespace[128..132]),
        ((0, 0), &[0, 1, 0, 0, 0, 0, 0, 0, 0][..], 0, &[0, 0, 12, 0][..])
    );
    let (status, list) = identify(0, 2);
    assert_eq!((status, &list[..8]), ((0, 0), &[1, 0, 0, 0, 0, 0, 0, 0][..]));
    assert_eq!(identify(1, 2).1[..4], [0; 4]);
    assert_eq!(identify(1, 3).1[..2], [3, 16]);
    assert_eq!((identify(2, 0).0, identify(0, 0).0, identify(0, 0x50).0), ((0, 0x0b), (0, 0x0b), (0, 2)));
}

/// Status type and code in the specification for each invalid admin command.
#[test]
fn wrong_admin_commands_get_the_status_of_the_specification() {
    let mut rig = Rig::with_queues(disk());
    let (page, odd) = (rig.page(0), rig.page(0) + 8);
    let size = 3 << 16;
    let wrong = [
        ("opcode", command(0x55, 0, [0; 4]), (0, 0x01)),
        ("fused", command(6 | 1 << 8, 0, [1, 0, 0, 0]), (0, 0x02)),
        ("SGL", command(6 | 1 << 14, 0, [1, 0, 0, 0]), (0, 0x02)),
        ("odd address", Command { prp: [page + 2, 0], ..command(6, 0, [1, 0, 0, 0]) }, (0, 0x13)),
        ("completion queue 0", Command { prp: [page, 0], ..command(5, 0, [size, 1, 0, 0]) }, (1, 0x01)),
        ("completion queue that exists", Command { prp: [page, 0], ..command(5, 0, [size | 1, 1, 0, 0]) }, (1, 0x01)),
        ("too high a queue", Command { prp: [page, 0], ..command(5, 0, [size | 65, 1, 0, 0]) }, (1, 0x01)),
        ("queue of one entry", Command { prp: [page, 0], ..command(5, 0, [2, 1, 0, 0]) }, (1, 0x02)),
        ("too long a queue", Command { prp: [page, 0], ..command(5, 0, [2048 << 16 | 2, 1, 0, 0]) }, (1, 0x02)),
        ("queue within a page", Command { prp: [odd, 0], ..command(5, 0, [size | 2, 1, 0, 0]) }, (0, 0x13)),
        ("scattered queue", Command { prp: [page, 0], ..command(5, 0, [size | 2, 0, 0, 0]) }, (0, 0x02)),
        ("vector of the pin", Command { prp: [page, 0], ..command(5, 0, [size | 2, 1 << 16 | 3, 0, 0]) }, (1, 0x08)),
        ("no completion queue", Command { prp: [page, 0], ..command(1, 0, [size | 2, 2 << 16 | 1, 0, 0]) }, (1, 0x00)),
        ("the admin queue's completions", Command { prp: [page, 0], ..command(1, 0, [size | 2, 1, 0, 0]) }, (1, 0x00)),
        (
            "submission queue that exists",
            Command { prp: [page, 0], ..command(1, 0, [size | 1, 1 << 16 | 1, 0, 0]) },
            (1, 0x01),
        ),
        ("deletion of the admin queue", command(0, 0, [0; 4]), (1, 0x01)),
        ("deletion of no queue", command(0, 0, [9, 0, 0, 0]), (1, 0x01)),
        ("deletion of completions in use", command(4, 0, [1, 0, 0, 0]), (1, 0x0c)),
        ("number of queues too late", command(9, 0, [7, 0, 0, 0]), (0, 0x0c)),
        ("too many queues", command(9, 0, [7, 0xffff, 0, 0]), (0, 0x02)),
        ("feature", command(9, 0, [0x7f, 0, 0, 0]), (0, 0x02)),
        ("saved feature", command(9, 0, [1 << 31 | 1, 0, 0, 0]), (1, 0x0d)),
        ("feature to get", command(10, 0, [0x7f, 0, 0, 0]), (0, 0x02)),
        ("log", Command { prp: [page, 0], ..command(2, 0, [0x7f, 0, 0, 0]) }, (1, 0x09)),
        ("offset in a log", Command { prp: [page, 0], ..command(2, 0, [2, 0, 512, 0]) }, (0, 0x02)),
    ];
    for (what, wrong, status) in wrong {
        assert_eq!(rig.admin(wrong).0, status, "{what}");
    }
    // The controller goes on as if none had been sent.
    assert_eq!(rig.io(command(0, 1, [0; 4])), SUCCESS);
}

#[test]
fn wrong_io_commands_get_the_status_of_the_specification() {
    let mut rig = Rig::with_queues(disk());
    let at = rig.page(0);
    let read = |namespace, dwords| Command { prp: [at, 0], ..command(2, namespace, dwords) };
    let wrong = [
        ("opcode", command(0x08, 1, [0; 4]), (0, 0x01)),
        ("namespace", read(2, [0; 4]), (0, 0x0b)),
        ("all namespaces", read(u32::MAX, [0; 4]), (0, 0x0b)),
        ("first block", read(1, [2048, 0, 0, 0]), (0, 0x80)),
        ("last block", read(1, [2047, 0, 1, 0]), (0, 0x80)),
        ("block far away", read(1, [u32::MAX, u32::MAX, 0, 0]), (0, 0x80)),
        ("length", read(1, [0, 0, 1024, 0]), (0, 0x02)),
        ("odd address", Command { prp: [at + 1, 0], ..read(1, [0; 4]) }, (0, 0x13)),
        ("second page", Command { prp: [at, at + 4], ..read(1, [0, 0, 8, 0]) }, (0, 0x13)),
        ("list", Command { prp: [at, at + 4], ..read(1, [0, 0, 16, 0]) }, (0, 0x13)),
    ];
    for (what, wrong, status) in wrong {
        assert_eq!(rig.io(wrong).0, status, "{what}");
    }
    assert_eq!(rig.io(command(0, u32::MAX, [0; 4])), SUCCESS, "a flush of all namespaces");
    assert_eq!(rig.io(read(1, [2047, 0, 0, 0])), SUCCESS, "the last block");
}

#[test]
fn data_goes_through_one_page_two_and_lists() {
    let mut rig = Rig::with_queues(disk());
    let pattern = |page: usize, at: usize| (page * 31 + at / 7) as u8;
    for page in 0..8 {
        rig.data.write(page, core::array::from_fn(|at| pattern(page, at))).unwrap();
    }
    // From the middle of a page on: 1 block, 2 pages, and all 7 pages through a list that starts at
    // the last entry but one of its page, and so continues on another page.
    let (start, lists) = (rig.page(0) + 512, rig.dma.buffer::<[u64; 512]>(2, Permission::Read).unwrap());
    let mut first = [0; 512];
    (first[510], first[511]) = (rig.page(1), lists.iova().0 + PAGE as u64);
    lists.write(0, first).unwrap();
    let others: [u64; 512] = core::array::from_fn(|at| if at < 6 { rig.page(at as u64 + 2) } else { 0 });
    lists.write(1, others).unwrap();
    let list = lists.iova().0 + 510 * 8;
    for (blocks, second) in [(1, 0), (8, rig.page(1)), (63, list)] {
        let write = Command { prp: [start, second], ..command(1, 1, [100, 0, blocks - 1, 0]) };
        assert_eq!(rig.io(write), SUCCESS, "{blocks}");
    }
    // Back, block by block, into the last page.
    let last = rig.page(7);
    for block in 0..63usize {
        let read = Command { prp: [last, 0], ..command(2, 1, [100 + block as u32, 0, 0, 0]) };
        assert_eq!(rig.io(read), SUCCESS);
        let (page, at) = ((block + 1) / 8, (block + 1) % 8 * 512);
        let expected: Vec<_> = (at..at + 512).map(|at| pattern(page, at)).collect();
        assert_eq!(rig.bytes(7, 512), expected, "{block}");
    }
}

#[test]
fn features_and_logs_are_kept() {
    let mut rig = Rig::new(disk());
    assert_eq!(rig.admin(command(9, 0, [7, 0, 0, 0])), ((0, 0), 63 << 16 | 63));
    assert_eq!(rig.admin(command(9, 0, [6, 1, 0, 0])), SUCCESS);
    assert_eq!(rig.admin(command(10, 0, [6, 0, 0, 0])), ((0, 0), 1));
    assert_eq!(rig.admin(command(10, 0, [6 | 1 << 8, 0, 0, 0])), SUCCESS, "its default");
    rig.create_queues();
    let (page, log) = (rig.page(0), |rig: &mut Rig, dwords| {
        let prp = [rig.page(0), 0];
        assert_eq!(rig.admin(Command { prp, ..command(2, u32::MAX, dwords) }), SUCCESS);
        rig.bytes(0, 512)
    });
    for opcode in [1, 2, 2] {
        assert_eq!(rig.io(Command { prp: [page, 0], ..command(opcode, 1, [0; 4]) }), SUCCESS);
    }
    let health = log(&mut rig, [127 << 16 | 2, 0, 0, 0]);
    assert_eq!((health[3], health[32], health[48], health[64], health[80]), (100, 1, 1, 2, 1));
    assert_eq!(log(&mut rig, [127 << 16 | 3, 0, 0, 0])[0], 1);
    assert_eq!(log(&mut rig, [15 << 16 | 1, 0, 0, 0])[..64], [0; 64]);
}

#[test]
fn a_deferred_controller_takes_its_time_and_commands_can_be_aborted() {
    let mut rig = Rig::with_queues(disk().deferred());
    let [first, second, third] = [(); 3].map(|()| rig.submit(false, command(0, 1, [0; 4])));
    assert_eq!(rig.take(false), None);
    assert_eq!(rig.admin(command(8, 0, [u32::from(second) << 16 | 1, 0, 0, 0])), SUCCESS);
    assert_eq!(rig.take(false), Some((second, ((0, 7), 0))));
    assert_eq!(rig.admin(command(8, 0, [u32::from(second) << 16 | 1, 0, 0, 0])), ((0, 0), 1), "it is no longer there");
    assert!(rig.model.step());
    assert_eq!((rig.take(false), rig.take(false)), (Some((first, SUCCESS)), None));
    // The others end with their queue.
    assert_eq!(rig.admin(command(0, 0, [1, 0, 0, 0])), SUCCESS);
    assert_eq!(rig.take(false), Some((third, ((0, 8), 0))));
    assert!(!rig.model.step());
    assert_eq!(rig.admin(command(4, 0, [1, 0, 0, 0])), SUCCESS);
    rig.io = Ring::new(&rig.dma, 1);
    rig.create_queues();
}

#[test]
fn an_event_answers_a_request_that_waits() {
    let mut rig = Rig::new(disk());
    let [first, ..] = [(); 2].map(|()| rig.submit(true, command(12, 0, [0; 4])));
    assert_eq!(rig.take(true), None);
    // Queue 9 does not exist.
    rig.bar.write(0x1000 + 8 * 9, 1u32).unwrap();
    assert_eq!(rig.take(true), Some((first, ((0, 0), 0x1_0000))));
    for _ in 0..3 {
        rig.submit(true, command(12, 0, [0; 4]));
    }
    assert_eq!(rig.take(true), None);
    assert_eq!(rig.admin(command(12, 0, [0; 4])).0, (1, 5), "four at most");
    rig.bar.write(0x1000, 99u32).unwrap();
    assert_eq!(rig.take(true).unwrap().1, ((0, 0), 0x1_0100), "a value past the ring");
}

#[test]
fn stuck_commands_are_answered_when_it_is_over() {
    let mut rig = Rig::with_queues(disk());
    let device: PciAddress = ADDRESS.parse().unwrap();
    rig.model.set_fault(device, Some(DeviceFault::StuckDma)).unwrap();
    let read = Command { prp: [rig.page(0), 0], ..command(2, 1, [0; 4]) };
    let id = rig.submit(false, read);
    assert!(!rig.model.step() && rig.take(false).is_none());
    assert_eq!(rig.bar.read::<u32>(CSTS), Ok(1), "nothing shows");
    rig.model.set_fault(device, None).unwrap();
    assert!(rig.model.step());
    assert_eq!(rig.take(false), Some((id, SUCCESS)));
}

#[test]
fn a_full_ring_of_completions_makes_the_controller_wait() {
    let mut rig = Rig::with_queues(disk());
    // A second submission queue for the same completion queue.
    let second = Ring::new(&rig.dma, 2);
    let create = Command { prp: [second.commands.iova().0, 0], ..command(1, 0, [3 << 16 | 2, 1 << 16 | 1, 0, 0]) };
    assert_eq!(rig.admin(create), SUCCESS);
    let ids: Vec<_> = (0..3).map(|_| rig.submit(false, command(0, 1, [0; 4]))).collect();
    let mut entry = [0; 16];
    (entry[0], entry[1]) = (0x77 << 16, 1);
    second.commands.write(0, entry).unwrap();
    rig.bar.write(0x1010, 1u32).unwrap();
    let raw = |rig: &Rig, at| rig.io.completions.read(at).unwrap()[3];
    assert_eq!(raw(&rig, 3), 0, "there is room for three");
    for id in ids {
        assert_eq!(rig.take(false), Some((id, SUCCESS)));
    }
    assert_eq!(raw(&rig, 3), 1 << 16 | 0x77);
}

fn fired(interrupt: &Interrupt) -> bool {
    interrupt.wait(Some(Duration::ZERO)).unwrap()
}

#[test]
fn completions_interrupt_by_their_vector_or_the_pin() {
    let mut rig = Rig::new(disk());
    let vectors = rig.device.enable_interrupts(InterruptKind::Msix, 2).unwrap();
    let (at, vector) = (rig.io.completions.iova().0, 1 << 16 | 3);
    assert_eq!(rig.admin(Command { prp: [at, 0], ..command(5, 0, [3 << 16 | 1, vector, 0, 0]) }), SUCCESS);
    assert!(fired(&vectors[0]) && !fired(&vectors[1]), "the admin queue has vector 0");
    let at = rig.io.commands.iova().0;
    assert_eq!(rig.admin(Command { prp: [at, 0], ..command(1, 0, [3 << 16 | 1, 1 << 16 | 1, 0, 0]) }), SUCCESS);
    fired(&vectors[0]);
    assert_eq!(rig.io(command(0, 1, [0; 4])), SUCCESS);
    assert!(!fired(&vectors[0]) && fired(&vectors[1]));
    drop(vectors);

    let mut rig = Rig::with_queues(disk());
    let pin = rig.device.enable_interrupts(InterruptKind::Intx, 1).unwrap().remove(0);
    rig.submit(false, command(0, 1, [0; 4]));
    assert!(fired(&pin));
    pin.rearm().unwrap();
    assert!(fired(&pin), "until the completion is taken");
    rig.bar.write(0x0c, 1u32).unwrap();
    pin.rearm().unwrap();
    assert!(!fired(&pin), "masked in the controller");
    rig.bar.write(0x10, 1u32).unwrap();
    assert!(fired(&pin));
    rig.take(false).unwrap();
    pin.rearm().unwrap();
    assert!(!fired(&pin));
}

#[test]
fn a_controller_that_is_set_up_wrong_fails_and_starts_again() {
    let rig = Rig::new(disk());
    let cap: u64 = rig.bar.read(0).unwrap();
    assert_eq!((cap & 0xffff, cap >> 24 & 0xff, cap >> 37 & 1, rig.bar.read(8)), (2047, 15, 1, Ok(0x0001_0400u32)));
    for wrong in [ENABLED | 5 << 7, ENABLED | 1 << 4] {
        rig.bar.write(CC, 0u32).unwrap();
        assert_eq!(rig.bar.read::<u32>(CSTS), Ok(0));
        rig.bar.write(CC, wrong).unwrap();
        assert_eq!(rig.bar.read::<u32>(CSTS), Ok(2), "{wrong:#x}");
    }
    rig.bar.write(CC, 0u32).unwrap();
    rig.bar.write(0x24, 0u32).unwrap();
    rig.bar.write(CC, ENABLED).unwrap();
    assert_eq!(rig.bar.read::<u32>(CSTS), Ok(2), "queues of one entry");
    rig.bar.write(CC, 0u32).unwrap();
    rig.enable();
    rig.bar.write(CC, ENABLED | 1 << 14).unwrap();
    assert_eq!(rig.bar.read::<u32>(CSTS), Ok(9), "shut down");
    // A reset clears what a disabled controller keeps.
    rig.device.reset().unwrap();
    assert_eq!((rig.bar.read(CSTS), rig.bar.read(0x28)), (Ok(0u32), Ok(0u64)));
}

#[test]
fn a_queue_out_of_reach_is_a_failure_of_the_controller() {
    let mut rig = Rig::new(disk());
    rig.bar.write(CC, 0u32).unwrap();
    rig.bar.write(0x28, Iova(0x7000_0000_0000_0000).0).unwrap();
    rig.bar.write(CC, ENABLED).unwrap();
    rig.submit(true, command(6, 0, [1, 0, 0, 0]));
    // On powernv the PE is frozen as well.
    assert!(rig.bar.read::<u32>(CSTS).is_err());
    assert_eq!(rig.model.violations().len(), 1);
    rig.device.eeh().recover().unwrap();
    rig.device.start_dma().unwrap();
    let Rig { bar, device, data, dma, model, next, .. } = rig;
    let (admin, io) = (Ring::new(&dma, 0), Ring::new(&dma, 1));
    let mut rig = Rig { bar, device, data, dma, model, next, admin, io };
    rig.enable();
    rig.create_queues();
    assert_eq!(rig.io(command(0, 1, [0; 4])), SUCCESS);
}
